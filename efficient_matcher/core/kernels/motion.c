/* The assignment held against the motion of neighbouring matches: the loops of core/motion_prior.py. */

#include "kernels.h"

#define MOMENTS 12
#define BLOCK 32

/* As core/motion_prior.py has them, under the same names. */
typedef struct {
    float unit_px, stiffness, slack, spread_px, lookalikes, close_px, far_px, tiny, nothing;
    int64_t neighbours;
} Settings;

/* Matches whose neighbours are asked: the keypoints 0 they begin at, [count] of `points`, what is known of them, moments
 * [12,count], and what each counts for each keypoint, closeness [count,points]. xy [2,points]: the keypoints, about
 * the middle of these matches. slack [points]: how little the neighbourhood of a keypoint says. */
typedef struct {
    int64_t count, points;
    int64_t *begins;
    float *moments, *closeness, *xy, *slack, centre1[2];
} Field;

/* How much denser than evenly over the image partners lie at a squared distance from where they are expected. */
INLINE float density(float squared, float variance, float area, float nothing)
{
    const float per_turn = 0.159154943f; /* 1 / (2 pi) */
    return exponential(larger(squared * (-0.5f / variance), nothing)) * (area * per_turn / variance);
}

/* The `rank`-th smallest, from 0, of a row's values at `columns` [count]; smallest is space for rank + 1 floats. */
INLINE float smallest_of(const float *row, const int64_t *columns, int64_t count, int64_t rank, float *smallest)
{
    for (int64_t k = 0; k <= rank; k++)
        smallest[k] = INFINITY;
    for (int64_t i = 0; i < count; i++) {
        const float value = row[columns[i]];
        if (!(value < smallest[rank]))
            continue;
        int64_t k = rank;
        for (; k > 0 && smallest[k - 1] > value; k--)
            smallest[k] = smallest[k - 1];
        smallest[k] = value;
    }
    return smallest[rank];
}

/* xy, moments and centre1 from the keypoints 0 at places0 [points,2] and where the matches end, places1 [count,2]. */
INLINE void describe(Field *field, const float *places0, const float *places1, float unit)
{
    const int64_t count = field->count, points = field->points;
    double sums[4] = {0};
    for (int64_t c = 0; c < count; c++)
        for (int axis = 0; axis < 2; axis++) {
            sums[axis] += places0[2 * field->begins[c] + axis];
            sums[2 + axis] += places1[2 * c + axis];
        }
    for (int axis = 0; axis < 2; axis++) {
        const float centre0 = (float)(sums[axis] / count);
        field->centre1[axis] = (float)(sums[2 + axis] / count);
        for (int64_t q = 0; q < points; q++)
            field->xy[axis * points + q] = (places0[2 * q + axis] - centre0) / unit;
    }
    for (int64_t c = 0; c < count; c++) {
        const float x = field->xy[field->begins[c]], y = field->xy[points + field->begins[c]];
        const float u = places1[2 * c] - field->centre1[0], v = places1[2 * c + 1] - field->centre1[1];
        const float moments[MOMENTS] = {1, x, y, u, v, x * x, x * y, y * y, u * x, v * x, u * y, v * y};
        for (int k = 0; k < MOMENTS; k++)
            field->moments[k * count + c] = moments[k];
    }
}

/* closeness and slack: a keypoint's neighbourhood reaches as far as that of the match next to it, and the way there. No
 * match has a say on itself. space is for 2 points + neighbours + 1 floats. */
INLINE void approach(Field *field, const Settings *use, float *space)
{
    const int64_t count = field->count, points = field->points;
    const int64_t rank = use->neighbours < count - 1 ? use->neighbours : count - 1;
    float *way = space, *reach = way + points, *smallest = reach + points;
    const float *xs = field->xy, *ys = xs + points, least = 1 / (use->unit_px * use->unit_px);
    for (int64_t q = 0; q < points; q++)
        way[q] = INFINITY;
    for (int64_t c = 0; c < count; c++) {
        const float x = xs[field->begins[c]], y = ys[field->begins[c]];
        float *squared = field->closeness + c * points;
        for (int64_t q = 0; q < points; q++)
            squared[q] = (xs[q] - x) * (xs[q] - x) + (ys[q] - y) * (ys[q] - y);
        const float own = sqrtf(smallest_of(squared, field->begins, count, rank, smallest));
#pragma omp simd
        for (int64_t q = 0; q < points; q++) {
            reach[q] = squared[q] < way[q] ? own : reach[q];
            way[q] = smaller(way[q], squared[q]);
        }
    }
#pragma omp simd
    for (int64_t q = 0; q < points; q++) {
        const float length = reach[q] + sqrtf(way[q]);
        reach[q] = larger(length * length, least);
        field->slack[q] = use->slack * reach[q];
        reach[q] = -0.5f / reach[q];
    }
    for (int64_t c = 0; c < count; c++) {
        float *row = field->closeness + c * points;
#pragma omp simd
        for (int64_t q = 0; q < points; q++)
            row[q] = exponential(larger(row[q] * reach[q], use->nothing));
        row[field->begins[c]] = exponential(use->nothing);
    }
}

/* slopes [4], along x of both places in image 1 and along y of both, that matches by weights [count] have in common. */
INLINE void common_slopes(const Field *field, const float *weights, float tiny, float *slopes)
{
    float mean[MOMENTS];
    for (int k = 0; k < MOMENTS; k++) {
        float sum = 0;
        for (int64_t c = 0; c < field->count; c++)
            sum += weights[c] * field->moments[k * field->count + c];
        mean[k] = k ? sum / (mean[0] + tiny) : sum;
    }
    const float x = mean[1], y = mean[2];
    const float xx = mean[5] - x * x + tiny, xy = mean[6] - x * y, yy = mean[7] - y * y + tiny;
    for (int axis = 0; axis < 2; axis++) {
        const float along_x = mean[8 + axis] - mean[3 + axis] * x, along_y = mean[10 + axis] - mean[3 + axis] * y;
        slopes[axis] = (along_x * yy - along_y * xy) / (xx * yy - xy * xy);
        slopes[2 + axis] = (along_y * xx - along_x * xy) / (xx * yy - xy * xy);
    }
}

/* Of each keypoint the affine map of its neighbourhood, by least squares with weights [count] and drawn towards the
 * common slopes: where it is expected, [2,points], and by what factor [points] the variance about that is larger for
 * want of neighbours. */
INLINE void expect(const Field *field, const float *weights, const float *slopes, const Settings *use, float *expected,
                   float *unsure)
{
    const int64_t count = field->count, points = field->points;
    for (int64_t start = 0; start < points; start += BLOCK) {
        const int64_t width = start + BLOCK < points ? BLOCK : points - start;
        float sums[MOMENTS][BLOCK] = {{0}}, near[BLOCK] = {0}, xs[BLOCK] = {0}, ys[BLOCK] = {0}, slack[BLOCK] = {0};
        memcpy(xs, field->xy + start, width * sizeof(float));
        memcpy(ys, field->xy + points + start, width * sizeof(float));
        memcpy(slack, field->slack + start, width * sizeof(float));
        for (int64_t c = 0; c < count; c++) {
            memcpy(near, field->closeness + c * points + start, width * sizeof(float));
            for (int k = 0; k < MOMENTS; k++) {
                const float factor = weights[c] * field->moments[k * count + c];
                for (int q = 0; q < BLOCK; q++)
                    sums[k][q] += factor * near[q];
            }
        }
        float places[2][BLOCK], factors[BLOCK];
        for (int q = 0; q < BLOCK; q++) {
            const float per = 1 / (sums[0][q] + use->tiny), stiffness = use->stiffness + slack[q] * per;
            const float x = sums[1][q] * per, y = sums[2][q] * per, u = sums[3][q] * per, v = sums[4][q] * per;
            const float xx = sums[5][q] * per - x * x + use->tiny + stiffness, xy = sums[6][q] * per - x * y;
            const float yy = sums[7][q] * per - y * y + use->tiny + stiffness, determinant = xx * yy - xy * xy;
            const float ux = sums[8][q] * per - u * x + stiffness * slopes[0];
            const float vx = sums[9][q] * per - v * x + stiffness * slopes[1];
            const float uy = sums[10][q] * per - u * y + stiffness * slopes[2];
            const float vy = sums[11][q] * per - v * y + stiffness * slopes[3];
            const float dx = (xs[q] - x) / determinant, dy = (ys[q] - y) / determinant;
            places[0][q] = u + (ux * yy - uy * xy) * dx + (uy * xx - ux * xy) * dy + field->centre1[0];
            places[1][q] = v + (vx * yy - vy * xy) * dx + (vy * xx - vx * xy) * dy + field->centre1[1];
            factors[q] = 1 + 0.5f * per;
        }
        memcpy(expected + start, places[0], width * sizeof(float));
        memcpy(expected + points + start, places[1], width * sizeof(float));
        memcpy(unsure + start, factors, width * sizeof(float));
    }
}

/* How far, squared, a place [2] is from where keypoint q is expected. */
INLINE float miss(const float *place, const float *expected, int64_t points, int64_t q)
{
    const float dx = place[0] - expected[q], dy = place[1] - expected[points + q];
    return dx * dx + dy * dy;
}

/* The chances of `entries` entries of an assignment, once the motion is known by `count` of them, `telling`, which are
 * believed as begun [count] at first. asked [entries]: the keypoints 0 of the entries, at places0 [points,2]; places1
 * [entries,2]: their partners, in an image of an area. alone [points]: how likely each keypoint has no partner, times
 * what lookalikes count. space is for count (points + 15) + 9 points + neighbours + 1 floats, begins for count
 * numbers. */
KERNEL void em_reweighed(const float *chances, const int64_t *asked, const float *places1, int64_t entries,
                         const float *places0, const float *alone, int64_t points, const int64_t *telling,
                         const float *begun, int64_t count, float area, const Settings *use, int64_t *begins,
                         float *space, float *reweighed)
{
    float *moments = space, *weights = moments + MOMENTS * count, *ends = weights + count;
    float *xy = ends + 2 * count, *slack = xy + 2 * points, *expected = slack + points, *unsure = expected + 2 * points;
    float *sums = unsure + points, *closeness = sums + points, *rest = closeness + count * points;
    Field field = {count, points, begins, moments, closeness, xy, slack, {0, 0}};
    for (int64_t c = 0; c < count; c++) {
        begins[c] = asked[telling[c]];
        ends[2 * c] = places1[2 * telling[c]];
        ends[2 * c + 1] = places1[2 * telling[c] + 1];
    }
    describe(&field, places0, ends, use->unit_px);
    approach(&field, use, rest);
    float slopes[4];
    common_slopes(&field, begun, use->tiny, slopes);
    expect(&field, begun, slopes, use, expected, unsure);
    for (int64_t c = 0; c < count; c++) { /* which of them agree with their neighbours */
        const float score = chances[telling[c]], variance = use->spread_px * use->spread_px * unsure[begins[c]];
        const float squared = miss(ends + 2 * c, expected, points, begins[c]);
        const float agreeing = score * density(squared, variance, area, use->nothing);
        weights[c] = agreeing / (agreeing + use->lookalikes * (1 - score) + use->tiny);
    }
    expect(&field, weights, slopes, use, expected, unsure);
    memcpy(sums, alone, points * sizeof(float));
    for (int64_t k = 0; k < entries; k++) { /* half of the partners are close to where they are expected, half far */
        const int64_t q = asked[k];
        const float squared = miss(places1 + 2 * k, expected, points, q);
        const float close = density(squared, use->close_px * use->close_px * unsure[q], area, use->nothing);
        const float far = density(squared, use->far_px * use->far_px * unsure[q], area, use->nothing);
        reweighed[k] = chances[k] * 0.5f * (close + far);
        sums[q] += reweighed[k];
    }
    for (int64_t k = 0; k < entries; k++)
        reweighed[k] /= sums[asked[k]];
}
