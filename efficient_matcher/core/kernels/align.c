/* Patches of two images laid over each other: core/align.py, patch by patch, and the motion around matches that no
 * homography explains: the loop of core/motion.py. */

#include "kernels.h"

#define MOST_SAMPLES 192 /* of a patch and around it */
#define NEAREST 16

/* As core/align.py has them, under the same names. */
typedef struct {
    float spacing, steeper, least_seen, correlated, least_noise, least_contrast, largest_step, prior;
    int64_t passes;
} Settings;

typedef struct {
    const uint8_t *pixels;
    int64_t height, width;
} Image;

/* Places of samples in patch units, of which the first `inner` make the patch and have neighbours and weights. */
typedef struct {
    const float *x, *y, *weights;
    const int32_t *left, *right, *above, *below;
    int64_t inner, all;
} Pattern;

/* Where a patch lies in an image: its middle and, of x and y per patch unit, the steps [2,2] px. */
typedef struct {
    float point[2], steps[4];
} Patch;

/* See `_Template`: of one patch, over `terms` [4][..]. */
typedef struct {
    float terms[4][MOST_SAMPLES], mean, contrast, slope_mean[2], slope_value[2], normal[3], samples;
} Template;

/* x and y px of the first `count` samples, moved by patch units. */
INLINE void places(const Patch *patch, const Pattern *pattern, const float *moved, int64_t count, float *xs, float *ys)
{
    const float *steps = patch->steps;
#pragma omp simd
    for (int64_t s = 0; s < count; s++) {
        const float x = pattern->x[s] + moved[0], y = pattern->y[s] + moved[1];
        xs[s] = steps[0] * x + steps[1] * y + patch->point[0];
        ys[s] = steps[2] * x + steps[3] * y + patch->point[1];
    }
}

/* Grey values there, bilinear; the border goes on for ever. */
INLINE void sample(const Image *image, const Patch *patch, const Pattern *pattern, const float *moved, int64_t count,
                   float *grey)
{
    float xs[MOST_SAMPLES], ys[MOST_SAMPLES], corners[4][MOST_SAMPLES];
    int32_t sites[MOST_SAMPLES];
    const float right = image->width - 1, bottom = image->height - 1;
    const int32_t width = (int32_t)image->width, last_x = width - 2, last_y = (int32_t)image->height - 2;
    places(patch, pattern, moved, count, xs, ys);
#pragma omp simd
    for (int64_t s = 0; s < count; s++) {
        const float x = smaller(larger(xs[s], 0), right), y = smaller(larger(ys[s], 0), bottom);
        const int32_t column = (int32_t)x < last_x ? (int32_t)x : last_x, row = (int32_t)y < last_y ? (int32_t)y : last_y;
        xs[s] = x - column;
        ys[s] = y - row;
        sites[s] = row * width + column;
    }
    for (int64_t s = 0; s < count; s++) {
        const uint8_t *site = image->pixels + sites[s];
        corners[0][s] = site[0];
        corners[1][s] = site[1];
        corners[2][s] = site[width];
        corners[3][s] = site[width + 1];
    }
#pragma omp simd
    for (int64_t s = 0; s < count; s++) {
        const float above = corners[0][s] + xs[s] * (corners[1][s] - corners[0][s]);
        const float below = corners[2][s] + xs[s] * (corners[3][s] - corners[2][s]);
        grey[s] = above + ys[s] * (below - above);
    }
}

INLINE float product(const float *a, const float *b, int64_t count)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t s = 0; s < count; s++)
        sum += a[s] * b[s];
    return sum;
}

/* Whether a patch comes near the border of the image. */
INLINE int is_cut(const Image *image, const Patch *patch, float radius)
{
    const float reach_x = (fabsf(patch->steps[0]) + fabsf(patch->steps[1])) * radius + 1;
    const float reach_y = (fabsf(patch->steps[2]) + fabsf(patch->steps[3])) * radius + 1;
    return patch->point[0] - reach_x < 0 || patch->point[1] - reach_y < 0 ||
           patch->point[0] + reach_x > image->width - 1 || patch->point[1] + reach_y > image->height - 1;
}

/* weights [inner] of the samples, zero outside either image; all zero where too little is seen. */
INLINE void weigh(const Image *images, const Patch *patches, const Pattern *pattern, float radius,
                  const Settings *use, float *weights)
{
    const float still[2] = {0, 0};
    memcpy(weights, pattern->weights, pattern->inner * sizeof(float));
    if (!is_cut(&images[0], &patches[0], radius) && !is_cut(&images[1], &patches[1], radius))
        return;
    for (int side = 0; side < 2; side++) {
        float xs[MOST_SAMPLES], ys[MOST_SAMPLES];
        places(&patches[side], pattern, still, pattern->inner, xs, ys);
        for (int64_t s = 0; s < pattern->inner; s++)
            if (!(xs[s] >= 0 && ys[s] >= 0 && xs[s] <= images[side].width - 1 && ys[s] <= images[side].height - 1))
                weights[s] = 0;
    }
    float share = 0;
    for (int64_t s = 0; s < pattern->inner; s++)
        share += weights[s];
    for (int64_t s = 0; s < pattern->inner; s++)
        weights[s] = share >= use->least_seen ? weights[s] / share : 0;
}

/* The template of a patch of image 0 under weights that are not all zero. */
INLINE void describe(const Image *image, const Patch *patch, const Pattern *pattern, const float *weights,
                     const Settings *use, Template *template)
{
    float grey[MOST_SAMPLES], *root = template->terms[0], *value = template->terms[1];
    float *slope_x = template->terms[2], *slope_y = template->terms[3];
    const float still[2] = {0, 0}, per = use->steeper / (2 * use->spacing);
    const int64_t count = pattern->inner;
    sample(image, patch, pattern, still, pattern->all, grey);
    for (int64_t s = 0; s < count; s++) {
        root[s] = sqrtf(weights[s]);
        value[s] = grey[s] * root[s];
        slope_x[s] = (grey[pattern->right[s]] - grey[pattern->left[s]]) * (root[s] * per);
        slope_y[s] = (grey[pattern->below[s]] - grey[pattern->above[s]]) * (root[s] * per);
    }
    const float mean = product(value, root, count), square = product(value, value, count);
    const float least = use->least_contrast * use->least_contrast;
    template->mean = mean;
    template->contrast = sqrtf(larger(square - mean * mean, least));
    float explained[2];
    for (int axis = 0; axis < 2; axis++) {
        const float *slope = template->terms[2 + axis];
        template->slope_mean[axis] = product(slope, root, count);
        template->slope_value[axis] = product(slope, value, count) - template->slope_mean[axis] * mean;
        explained[axis] = template->slope_value[axis] / template->contrast;
    }
    const float *means = template->slope_mean, squared = template->contrast * template->contrast;
    template->normal[0] = (product(slope_x, slope_x, count) - means[0] * means[0] - explained[0] * explained[0]) / squared;
    template->normal[1] = (product(slope_x, slope_y, count) - means[0] * means[1] - explained[0] * explained[1]) / squared;
    template->normal[2] = (product(slope_y, slope_y, count) - means[1] * means[1] - explained[1] * explained[1]) / squared;
    template->samples = use->spacing * use->spacing / use->correlated / larger(product(weights, weights, count), 1e-6f);
}

/* A patch of image 1 against the template: the slopes' share of the difference [2]. Returns `_noise`. */
INLINE float compare(const Template *template, const float *grey, int64_t count, const Settings *use, float *slopes)
{
    float value[MOST_SAMPLES], sums[4];
#pragma omp simd
    for (int64_t s = 0; s < count; s++)
        value[s] = grey[s] * template->terms[0][s];
    for (int term = 0; term < 4; term++)
        sums[term] = product(template->terms[term], value, count);
    const float square = product(value, value, count), least = use->least_contrast * use->least_contrast;
    const float contrast = sqrtf(larger(square - sums[0] * sums[0], least));
    const float common = (sums[1] - sums[0] * template->mean) / template->contrast, correlation = common / contrast;
    const float gain = contrast * larger(correlation, 0.2f); /* not below where nothing agrees */
    for (int axis = 0; axis < 2; axis++)
        slopes[axis] = (sums[2 + axis] - template->slope_mean[axis] * sums[0] -
                        template->slope_value[axis] * (common / template->contrast)) / (template->contrast * gain);
    const float certain = larger(correlation, 1e-3f) * larger(correlation, 1e-3f);
    return larger((1 - certain) / certain, use->least_noise);
}

/* One Gauss-Newton step [2], patch units, towards agreement and the prior. */
INLINE void step_towards(const Template *template, const float *slopes, float noise, const float *moved,
                         const Settings *use, float *step)
{
    const float pull = noise / (larger(template->samples, 1e-3f) * use->prior * use->prior);
    const float a = template->normal[0] + pull, b = template->normal[1], d = template->normal[2] + pull;
    const float x = slopes[0] + pull * moved[0], y = slopes[1] + pull * moved[1];
    const float determinant = larger(a * d - b * b, 1e-12f);
    step[0] = (d * x - b * y) / determinant;
    step[1] = (a * y - b * x) / determinant;
    const float length = sqrtf(step[0] * step[0] + step[1] * step[1]);
    const float shorter = smaller(1, use->largest_step / larger(length, 1e-6f));
    step[0] *= shorter;
    step[1] *= shorter;
}

INLINE Patch patch_at(const float *point, float a, float b, float c, float d)
{
    const Patch patch = {{point[0], point[1]}, {a, b, c, d}};
    return patch;
}

/* Patches about points0 of image 0 and points1 of image 1, [count,2] px, under motions [count,2,2]; the fields of
 * `Alignment`, each [count] but the moves, [count,2] px. The pattern has places [3,all] and neighbours [4,inner]: left,
 * right, above, below. Both images are at least 2 x 2 pixels, and `all` is at most MOST_SAMPLES. */
KERNEL void em_align(const uint8_t *image0, int64_t height0, int64_t width0, const uint8_t *image1, int64_t height1,
                     int64_t width1, const float *points0, const float *points1, const float *motions, int64_t count,
                     const float *grid, int64_t all, const int32_t *neighbours, const float *weights, int64_t inner,
                     const Settings *use, float *moves, float *lengths, float *correlations, float *sharpness,
                     uint8_t *seen)
{
    const Image images[2] = {{image0, height0, width0}, {image1, height1, width1}};
    const Pattern pattern = {grid, grid + all, weights, neighbours, neighbours + inner, neighbours + 2 * inner,
                             neighbours + 3 * inner, inner, all};
    float radius = 1;
    for (int64_t s = 0; s < 2 * all; s++)
        radius = larger(radius, grid[s]);
    for (int64_t k = 0; k < count; k++) {
        const float *m = motions + 4 * k, scale = larger(1, 1 / sqrtf(fabsf(m[0] * m[3] - m[1] * m[2])));
        const Patch patches[2] = {patch_at(points0 + 2 * k, scale, 0, 0, scale),
                                  patch_at(points1 + 2 * k, m[0] * scale, m[1] * scale, m[2] * scale, m[3] * scale)};
        float of_samples[MOST_SAMPLES], grey[MOST_SAMPLES], moved[2] = {0, 0}, slopes[2] = {0, 0}, step[2] = {0, 0};
        Template template;
        moves[2 * k] = moves[2 * k + 1] = lengths[k] = correlations[k] = sharpness[k] = 0;
        weigh(images, patches, &pattern, radius, use, of_samples);
        seen[k] = product(of_samples, of_samples, inner) > 0;
        if (!seen[k])
            continue;
        describe(&images[0], &patches[0], &pattern, of_samples, use, &template);
        float noise = 0;
        for (int64_t pass = 0; pass < use->passes; pass++) {
            sample(&images[1], &patches[1], &pattern, moved, inner, grey);
            noise = compare(&template, grey, inner, use, slopes);
            step_towards(&template, slopes, noise, moved, use, step);
            moved[0] -= step[0];
            moved[1] -= step[1];
        }
        const float a = template.normal[0], b = template.normal[1], d = template.normal[2];
        const float explained = 2 * (slopes[0] * step[0] + slopes[1] * step[1]) -
                                (a * step[0] * step[0] + 2 * b * step[0] * step[1] + d * step[1] * step[1]);
        noise = larger(noise - explained, use->least_noise);
        moves[2 * k] = patches[1].steps[0] * moved[0] + patches[1].steps[1] * moved[1];
        moves[2 * k + 1] = patches[1].steps[2] * moved[0] + patches[1].steps[3] * moved[1];
        lengths[k] = sqrtf(moved[0] * moved[0] + moved[1] * moved[1]);
        correlations[k] = 1 / sqrtf(1 + noise);
        const float least = (a + d) / 2 - sqrtf((a - d) * (a - d) / 4 + b * b);
        sharpness[k] = least * template.samples / noise;
    }
}

/* Which points [count,2] are nearest to one of them, itself included: `wanted` <= NEAREST of them, in no order. */
INLINE void nearest_to(const double *points, int64_t count, int64_t which, int wanted, int64_t *nearest)
{
    double squares[NEAREST];
    int found = 0;
    for (int64_t i = 0; i < count; i++) {
        const double x = points[2 * i] - points[2 * which], y = points[2 * i + 1] - points[2 * which + 1];
        const double squared = x * x + y * y;
        if (found == wanted && !(squared < squares[wanted - 1]))
            continue;
        int place = found < wanted ? found++ : wanted - 1;
        for (; place > 0 && squares[place - 1] > squared; place--) {
            squares[place] = squares[place - 1];
            nearest[place] = nearest[place - 1];
        }
        squares[place] = squared;
        nearest[place] = i;
    }
}

/* affine [2,3] from 1, x, y to the target [..][2] by weighted least squares; singular is what adds to the spreads. */
INLINE void fit_affine(double design[NEAREST][2], double target[NEAREST][2], const double *weights, int count,
                       double singular, double *affine)
{
    double total = 0, x = 0, y = 0, xx = 0, xy = 0, yy = 0, one[2] = {0}, by[2][2] = {{0}};
    for (int i = 0; i < count; i++) {
        const double w = weights[i], a = design[i][0], b = design[i][1];
        total += w;
        x += w * a;
        y += w * b;
        xx += w * a * a;
        xy += w * a * b;
        yy += w * b * b;
        for (int axis = 0; axis < 2; axis++) {
            one[axis] += w * target[i][axis];
            by[axis][0] += w * a * target[i][axis];
            by[axis][1] += w * b * target[i][axis];
        }
    }
    total = total > 1e-6 ? total : 1e-6;
    xx += singular - x * x / total;
    xy -= x * y / total;
    yy += singular - y * y / total;
    const double determinant = xx * yy - xy * xy;
    for (int axis = 0; axis < 2; axis++) {
        const double mean = one[axis] / total, along_x = by[axis][0] - x * mean, along_y = by[axis][1] - y * mean;
        const double by_x = (yy * along_x - xy * along_y) / determinant, by_y = (xx * along_y - xy * along_x) / determinant;
        affine[3 * axis] = mean - (by_x * x + by_y * y) / total;
        affine[3 * axis + 1] = by_x;
        affine[3 * axis + 2] = by_y;
    }
}

/* Around some matches, `which` [asked] of points0 and points1 [count,2] px, the affine maps [asked,2,3] of their `wanted`
 * <= NEAREST nearest ones and themselves, and how many of these agree with it, support [asked]. */
KERNEL void em_neighbour_motions(const double *points0, const double *points1, int64_t count, const int64_t *which,
                                 int64_t asked, int64_t wanted, int64_t rounds, double near_px, double noise_px,
                                 double singular, double *affine, double *support)
{
    for (int64_t r = 0; r < asked; r++) {
        int64_t nearest[NEAREST];
        double design[NEAREST][2], target[NEAREST][2], start[NEAREST], weights[NEAREST], residual[NEAREST];
        const double *own0 = points0 + 2 * which[r], *own1 = points1 + 2 * which[r];
        double *map = affine + 6 * r;
        nearest_to(points0, count, which[r], (int)wanted, nearest);
        for (int i = 0; i < wanted; i++) {
            for (int axis = 0; axis < 2; axis++) {
                design[i][axis] = points0[2 * nearest[i] + axis] - own0[axis];
                target[i][axis] = points1[2 * nearest[i] + axis] - own1[axis];
            }
            const double squared = design[i][0] * design[i][0] + design[i][1] * design[i][1];
            weights[i] = start[i] = squared < near_px * near_px;
        }
        for (int64_t round = 0; round < rounds; round++) {
            double sorted[NEAREST];
            fit_affine(design, target, weights, (int)wanted, singular, map);
            for (int i = 0; i < wanted; i++) {
                residual[i] = 0;
                for (int axis = 0; axis < 2; axis++) {
                    const double *row = map + 3 * axis;
                    const double missed = target[i][axis] - (row[0] + row[1] * design[i][0] + row[2] * design[i][1]);
                    residual[i] += missed * missed;
                }
                int place = i; /* insertion: there are few */
                for (; place > 0 && sorted[place - 1] > residual[i]; place--)
                    sorted[place] = sorted[place - 1];
                sorted[place] = residual[i];
            }
            const double median = sorted[wanted / 2], spread = median > noise_px * noise_px ? median : noise_px * noise_px;
            for (int i = 0; i < wanted; i++)
                weights[i] = start[i] / ((1 + residual[i] / spread) * (1 + residual[i] / spread));
        }
        support[r] = 0;
        for (int i = 0; i < wanted; i++)
            support[r] += residual[i] < 9 * noise_px * noise_px ? start[i] : 0;
    }
}
