/* Affine maps of the surroundings of points, that matches nearby agree on: the loops of core/local_maps.py. */
#ifndef EFFICIENT_MATCHER_LOCAL_MAPS_H
#define EFFICIENT_MATCHER_LOCAL_MAPS_H

#include "kernels.h"

#define MOMENTS 12
#define BLOCK 32
#define LAST_BIT (1 << 8)

/* As core/local_maps.py has them, under the same names; neighbours: as its callers have it. */
typedef struct {
    float unit_px, stiffness, slack, tiny, nothing;
    int64_t neighbours;
} Maps;

/* Of `points` points and `count` matches, floats of space for a field, and beside it for `approach`. */
#define FIELD_SPACE(points, count) ((count) * ((points) + MOMENTS) + 3 * (points))
#define APPROACH_SPACE(points, count) (2 * (points) + 3 * PADDED(count))

/* Matches whose neighbours are asked: the keypoints 0 they begin at, [count] of `points`, what is known of them, moments
 * [12,count], and what each counts for each keypoint, closeness [count,points]. xy [2,points]: the keypoints, about
 * the middle of these matches. slack [points]: how little the neighbourhood of a keypoint says. */
typedef struct {
    int64_t count, points;
    int64_t *begins;
    float *moments, *closeness, *xy, *slack, centre1[2];
} Field;

/* In FIELD_SPACE floats of space, of matches that begin at begins [count]. */
INLINE Field field_in(float *space, int64_t *begins, int64_t points, int64_t count)
{
    float *moments = space, *xy = moments + MOMENTS * count, *slack = xy + 2 * points;
    const Field field = {count, points, begins, moments, slack + points, xy, slack, {0, 0}};
    return field;
}

/* The `rank`-th smallest, from 0, of PADDED(count) floats, none below 0 and as many as need be infinite. The bits of such
 * order as they do, so it is found bit by bit: the largest number that at most `rank` of them are below, down to its last
 * digits, which do not matter here. */
INLINE float smallest_of(const float *values, int64_t count, int64_t rank)
{
    const int64_t padded = PADDED(count);
    int32_t found = 0;
    for (int32_t bit = 1 << 30; bit >= LAST_BIT; bit >>= 1) {
        const int32_t tried = found | bit;
        float limit;
        memcpy(&limit, &tried, sizeof limit);
        int32_t below = 0;
#pragma omp simd reduction(+ : below)
        for (int64_t i = 0; i < padded; i++)
            below += values[i] < limit;
        found = below <= rank ? tried : found;
    }
    float value;
    memcpy(&value, &found, sizeof value);
    return value;
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
 * match has a say on itself. space is for APPROACH_SPACE floats. */
INLINE void approach(Field *field, const Maps *use, float *space)
{
    const int64_t count = field->count, points = field->points;
    const int64_t rank = use->neighbours < count - 1 ? use->neighbours : count - 1;
    float *way = space, *reach = way + points, *begin_x = reach + points, *begin_y = begin_x + PADDED(count);
    float *apart = begin_y + PADDED(count); /* of the matches from one of them, squared */
    const float *xs = field->xy, *ys = xs + points, least = 1 / (use->unit_px * use->unit_px);
    for (int64_t q = 0; q < points; q++)
        way[q] = INFINITY;
    for (int64_t c = 0; c < PADDED(count); c++) {
        begin_x[c] = c < count ? xs[field->begins[c]] : INFINITY;
        begin_y[c] = c < count ? ys[field->begins[c]] : INFINITY;
    }
    for (int64_t c = 0; c < count; c++) {
        const float x = xs[field->begins[c]], y = ys[field->begins[c]];
        float *squared = field->closeness + c * points;
        for (int64_t q = 0; q < points; q++)
            squared[q] = (xs[q] - x) * (xs[q] - x) + (ys[q] - y) * (ys[q] - y);
        for (int64_t i = 0; i < PADDED(count); i++)
            apart[i] = (begin_x[i] - x) * (begin_x[i] - x) + (begin_y[i] - y) * (begin_y[i] - y);
        const float own = sqrtf(smallest_of(apart, count, rank));
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
 * common slopes: where it is expected, [2,points], and how much weight [points] says so. */
INLINE void expect(const Field *field, const float *weights, const float *slopes, const Maps *use, float *expected,
                   float *support)
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
        float places[2][BLOCK], totals[BLOCK];
        for (int q = 0; q < BLOCK; q++) {
            totals[q] = sums[0][q] + use->tiny;
            const float per = 1 / totals[q], stiffness = use->stiffness + slack[q] * per;
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
        }
        memcpy(expected + start, places[0], width * sizeof(float));
        memcpy(expected + points + start, places[1], width * sizeof(float));
        memcpy(support + start, totals, width * sizeof(float));
    }
}

#endif
