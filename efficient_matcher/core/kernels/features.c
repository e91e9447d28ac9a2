/* Peaks of a score map, their centroids, and descriptors at them: the loops of core/features.py. */

#include "kernels.h"

#define MOST_STEPS 8

/* Of rows, or of pixels in a row: a maximum over some of them, that of itself `near` and `far` ahead included, is one
 * over up to three times as many. */
typedef struct {
    int64_t near, far;
} Step;

/* The steps from one to 2 * radius + 1. Returns how many. */
INLINE int steps_to(int64_t radius, Step *steps)
{
    const int64_t window = 2 * radius + 1;
    int count = 0;
    for (int64_t length = 1; length < window && count < MOST_STEPS; count++) {
        const int64_t far = 3 * length < window ? 2 * length : window - length;
        steps[count].near = far < length ? far : length;
        steps[count].far = far;
        length += far;
    }
    return count;
}

/* In place: row[x] becomes the maximum of the three, where the others may lie ahead in the same row. */
INLINE void raise_to(float *row, const float *near, const float *far, int64_t count)
{
#pragma omp simd
    for (int64_t x = 0; x < count; x++)
        row[x] = larger(row[x], larger(near[x], far[x]));
}

/* Pixels that are the largest within `radius` and at least `least`, in raster order; of equal ones within the radius
 * of each other the first. scores [height,width]; rows is space for (2 * radius + 1) * PADDED(width + 2 * radius)
 * floats, flags for width + FLAGS bytes of 0, sites for height * width numbers. Returns how many there are. */
KERNEL int64_t em_peaks(const float *scores, int64_t height, int64_t width, int64_t radius, float least, float *rows,
                        uint8_t *flags, int64_t *sites)
{
    const int64_t window = 2 * radius + 1, padded = width + 2 * radius, stride = PADDED(padded); /* rows begin at lines */
    int64_t found = 0;
    Step steps[MOST_STEPS];
    const int count = steps_to(radius, steps);
    for (int64_t below = 0; below < height + 2 * radius; below++) { /* rows of the map with `radius` rows about it */
        float *row = rows + below % window * stride;
        const int inside = below >= radius && below < height + radius;
        for (int64_t x = 0; x < padded; x += inside && x + 1 == radius ? width + 1 : 1)
            row[x] = -INFINITY;
        if (inside)
            memcpy(row + radius, scores + (below - radius) * width, width * sizeof(float));
        for (int k = 0; inside && k < count; k++)
            raise_to(row, row + steps[k].near, row + steps[k].far, padded - steps[k].far);
        int64_t y = below;
        for (int k = 0; k < count && y >= steps[k].far; k++) {
            y -= steps[k].far;
            raise_to(rows + y % window * stride, rows + (y + steps[k].near) % window * stride,
                     rows + (y + steps[k].far) % window * stride, width);
        }
        y = below - 2 * radius;
        if (y < 0)
            continue;
        const float *own = scores + y * width, *largest = rows + y % window * stride;
        for (int64_t x = 0; x < width; x++)
            flags[x] = (own[x] >= largest[x]) & (own[x] >= least);
        Scan scan = {0, 0};
        for (int64_t x = next_set(&scan, flags, width); x < width; x = next_set(&scan, flags, width))
            sites[found++] = y * width + x;
    }
    return found;
}

/* Whether sites i and j are at most `radius` columns apart. */
INLINE int are_near(const int64_t *sites, int64_t i, int64_t j, int64_t width, int64_t radius)
{
    const int64_t apart = sites[j] % width - sites[i] % width;
    return apart <= radius && -apart <= radius;
}

/* Whether one of the sites from `first` to before site i has its score and is near; on a plateau the one before is. */
INLINE int has_equal_before(const float *own, const int64_t *sites, int64_t first, int64_t i, int64_t width, int64_t radius)
{
    int equal = 0;
    if (i > first && own[i - 1] == own[i] && are_near(sites, i, i - 1, width, radius))
        return 1;
    for (int64_t j = first; j < i; j++)
        equal += own[j] == own[i];
    for (int64_t j = i - 1; equal && j >= first; j--)
        if (own[j] == own[i] && are_near(sites, i, j, width, radius))
            return 1;
    return 0;
}

/* Of sites in raster order, those `border` px inside the map that no equal one before them lies within `radius` of, as
 * keys. own is space for count floats. Returns how many there are. */
KERNEL int64_t em_first_of_ties(const float *scores, int64_t height, int64_t width, int64_t radius, int64_t border,
                                const int64_t *sites, int64_t count, float *own, int64_t *keys)
{
    int64_t left = 0, first = 0, y = 0;
    for (int64_t i = 0; i < count; i++)
        own[i] = scores[sites[i]];
    for (int64_t i = 0; i < count; i++) {
        while (sites[i] >= (y + 1) * width)
            y++;
        while (sites[first] < (y - radius) * width)
            first++;
        const int64_t x = sites[i] - y * width;
        if (y < border || x < border || y >= height - border || x >= width - border)
            continue;
        if (!radius || !has_equal_before(own, sites, first, i, width, radius))
            keys[left++] = key_of(own[i], sites[i]);
    }
    return left;
}

/* The index in [0,length) that is nearest. */
INLINE int64_t inside(int64_t index, int64_t length) { return index < 0 ? 0 : index < length ? index : length - 1; }

/* Centroids [count,2] px of the scores in (2 * reach + 1)^2 pixels about sites, and the variances [count] about them;
 * windows end at the border. */
void em_centroids(const float *scores, int64_t height, int64_t width, const int64_t *sites, int64_t count,
                  int64_t reach, float least_variance, float *points, float *variances)
{
    for (int64_t i = 0; i < count; i++) {
        const int64_t y = sites[i] / width, x = sites[i] % width;
        float mass = 0, along_x = 0, along_y = 0, squared = 0;
        for (int64_t dy = -reach; dy <= reach; dy++) {
            if (y + dy < 0 || y + dy >= height)
                continue;
            const float *row = scores + (y + dy) * width + x;
            for (int64_t dx = -reach; dx <= reach; dx++) {
                if (x + dx < 0 || x + dx >= width)
                    continue;
                mass += row[dx];
                along_x += row[dx] * dx;
                along_y += row[dx] * dy;
                squared += row[dx] * (dx * dx + dy * dy);
            }
        }
        along_x /= mass;
        along_y /= mass;
        points[2 * i] = x + along_x;
        points[2 * i + 1] = y + along_y;
        variances[i] = larger(squared / mass - (along_x * along_x + along_y * along_y), least_variance);
    }
}

/* The (2 * reach + 1)^2 pixels, rows first, about pixels [count,2] inside an image [height,width]: cut [count,..]. Beyond the
 * border those at the border stand. */
void em_patches(const uint8_t *image, int64_t height, int64_t width, const int64_t *pixels, int64_t count, int64_t reach,
                uint8_t *cut)
{
    const int64_t side = 2 * reach + 1;
    for (int64_t i = 0; i < count; i++) {
        const int64_t left = pixels[2 * i] - reach, top = pixels[2 * i + 1] - reach;
        for (int64_t dy = 0; dy < side; dy++, cut += side) {
            const uint8_t *row = image + inside(top + dy, height) * width;
            if (left >= 0 && left + side <= width)
                memcpy(cut, row + left, side);
            else
                for (int64_t dx = 0; dx < side; dx++)
                    cut[dx] = row[inside(left + dx, width)];
        }
    }
}

/* Where a point lies between the four cells around it, and how much each counts; clamped at the border. */
typedef struct {
    int64_t first, right, below, both;
    float shares[4];
} Corners;

INLINE Corners corners_of(const float *point, int64_t rows, int64_t columns, int64_t width, float cell)
{
    const float x = smaller(larger((point[0] - (cell - 1) / 2) / cell, 0), (float)(columns - 1));
    const float y = smaller(larger((point[1] - (cell - 1) / 2) / cell, 0), (float)(rows - 1));
    const int64_t left = (int64_t)x, top = (int64_t)y;
    const int64_t to_right = left + 1 < columns ? width : 0, to_below = top + 1 < rows ? columns * width : 0;
    const float right = x - left, down = y - top;
    const int64_t first = (top * columns + left) * width;
    const Corners corners = {first, first + to_right, first + to_below, first + to_right + to_below,
                             {(1 - right) * (1 - down), right * (1 - down), (1 - right) * down, right * down}};
    return corners;
}

#define AHEAD 4
#define FLAGS 64

/* Have the descriptors of two neighbouring cells, in both rows, come into the cache. */
INLINE void fetch(const void *coarse, size_t size, int64_t width, Corners at)
{
    for (int64_t byte = 0; byte < 2 * width * (int64_t)size; byte += FLAGS) {
        PREFETCH((const char *)coarse + at.first * size + byte);
        PREFETCH((const char *)coarse + at.below * size + byte);
    }
}

#define SAMPLE(NAME, TYPE)                                                                                             \
    KERNEL void NAME(const TYPE *coarse, int64_t rows, int64_t columns, int64_t width, const float *points,            \
                     int64_t count, float cell, float zero, float *sampled)                                            \
    {                                                                                                                  \
        for (int64_t i = 0; i < count; i++) {                                                                          \
            const Corners at = corners_of(points + 2 * i, rows, columns, width, cell);                                 \
            if (i + AHEAD < count)                                                                                     \
                fetch(coarse, sizeof(TYPE), width, corners_of(points + 2 * (i + AHEAD), rows, columns, width, cell));  \
            const TYPE *a = coarse + at.first, *b = coarse + at.right, *c = coarse + at.below, *d = coarse + at.both;  \
            float *own = sampled + i * width, length = 0;                                                              \
            _Pragma("omp simd reduction(+ : length)") for (int64_t k = 0; k < width; k++)                              \
            {                                                                                                          \
                const float value = at.shares[0] * a[k] + at.shares[1] * b[k] + at.shares[2] * c[k] +                  \
                                    at.shares[3] * d[k] - zero;                                                        \
                own[k] = value;                                                                                        \
                length += value * value;                                                                               \
            }                                                                                                          \
            const float norm = larger(sqrtf(length), 1e-12f);                                                          \
            for (int64_t k = 0; k < width; k++)                                                                        \
                own[k] /= norm;                                                                                        \
        }                                                                                                              \
    }

/* Unit descriptors [count,width] at points [count,2] px of a coarse map [rows,columns,width], bilinear between the
 * centres of cells; `zero` is what stands for 0 in the map. */
SAMPLE(em_sample_floats, float)
SAMPLE(em_sample_bytes, uint8_t)
