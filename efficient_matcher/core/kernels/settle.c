/* Matched points settled among their neighbours: the loops of core/settle.py. */

#include "local_maps.h"

/* As core/settle.py has them, under the same names. */
typedef struct {
    Maps maps;
    float agreeing, contradicted, least_variance;
    int64_t rounds, most_matches, least_matches;
} Settling;

INLINE float square(float x) { return x * x; }

/* How far matches are believed that are so far off, squared. */
INLINE float agreement(float squared) { return 1 / square(1 + squared); }

/* residuals [2,count], what points [count,2] of image 1 are off the homography H [9], and the variances [count] of these;
 * NaN where a point is beyond the horizon, or farther off than `far`. */
INLINE void measure(const float *points0, const float *points1, const float *deviations0, const float *deviations1,
                    int64_t count, const double *H, float far, float least, float *residuals, float *variances)
{
    const double magnification = fabs(H[0] * (H[4] * H[8] - H[5] * H[7]) - H[1] * (H[3] * H[8] - H[5] * H[6])
                                      + H[2] * (H[3] * H[7] - H[4] * H[6]));
    for (int64_t k = 0; k < count; k++) {
        const double x = points0[2 * k], y = points0[2 * k + 1], depth = H[6] * x + H[7] * y + H[8];
        const float along_x = (float)(points1[2 * k] - (H[0] * x + H[1] * y + H[2]) / depth);
        const float along_y = (float)(points1[2 * k + 1] - (H[3] * x + H[4] * y + H[5]) / depth);
        const int known = depth > 0 && square(along_x) + square(along_y) < far * far;
        const float zoom = (float)(magnification / (depth * depth * depth)); /* of an area */
        residuals[k] = known ? along_x : NAN;
        residuals[count + k] = known ? along_y : NAN;
        variances[k] = square(deviations0[k]) * zoom + square(deviations1[k]) + least;
    }
}

/* mean [points] around each point, of what is known of the matches, values [count], by weight [count]. */
INLINE void mean_around(const Field *field, const float *values, const float *weights, float tiny, float *mean)
{
    for (int64_t start = 0; start < field->points; start += BLOCK) {
        const int64_t width = start + BLOCK < field->points ? BLOCK : field->points - start;
        float sums[BLOCK] = {0}, totals[BLOCK] = {0}, near[BLOCK] = {0};
        for (int64_t c = 0; c < field->count; c++) {
            memcpy(near, field->closeness + c * field->points + start, width * sizeof(float));
            for (int q = 0; q < BLOCK; q++) {
                sums[q] += weights[c] * values[c] * near[q];
                totals[q] += weights[c] * near[q];
            }
        }
        for (int q = 0; q < BLOCK; q++)
            sums[q] /= totals[q] + tiny;
        memcpy(mean + start, sums, width * sizeof(float));
    }
}

/* settled [points,2]: points1 [points,2] among their neighbours, beyond the homography H [9], whose matches begin at
 * points0 [points,2]; deviations0, deviations1 [points]: their standard deviations. unit: what makes lengths of image 0
 * those of core/local_maps.py. threshold, far: as in core/settle.py. Returns 0, and settles nothing, where too few points
 * are before the horizon. telling is for most_matches numbers, space for FIELD_SPACE and APPROACH_SPACE of points and
 * most_matches, 3 most_matches and 11 points floats. */
KERNEL int64_t em_settled(const float *points0, const float *points1, const float *deviations0,
                          const float *deviations1, int64_t points, const double *H, float unit, float threshold, float far,
                          const Settling *use, int64_t *telling, float *space, float *settled)
{
    float *residuals = space, *variances = residuals + 2 * points, *places0 = variances + points;
    float *expected = places0 + 2 * points, *support = expected + 2 * points, *squared = support + points;
    float *agreeing = squared + points, *relief = agreeing + points, *ends = relief + points;
    float *weights = ends + 2 * use->most_matches;
    const float *along_x = residuals, *along_y = residuals + points, none[4] = {0};
    measure(points0, points1, deviations0, deviations1, points, H, far, use->least_variance, residuals, variances);
    int64_t known = 0, count = 0;
    float precision = 0;
    for (int64_t k = 0; k < points; k++) {
        places0[2 * k] = points0[2 * k] * unit;
        places0[2 * k + 1] = points0[2 * k + 1] * unit;
        agreeing[k] = agreement((square(along_x[k]) + square(along_y[k])) / square(threshold));
        relief[k] = 0;
        known += along_x[k] == along_x[k];
        precision += along_x[k] == along_x[k] ? 1 / variances[k] : 0;
    }
    if (known < use->least_matches)
        return 0;
    const int64_t stride = (known + use->most_matches - 1) / use->most_matches;
    for (int64_t k = 0, place = 0; k < points; k++) {
        if (along_x[k] != along_x[k] || place++ % stride)
            continue;
        ends[2 * count] = along_x[k];
        ends[2 * count + 1] = along_y[k];
        telling[count++] = k;
    }
    float *rest = weights + use->most_matches;
    Field field = field_in(rest, telling, points, count);
    describe(&field, places0, ends, use->maps.unit_px);
    approach(&field, &use->maps, rest + FIELD_SPACE(points, count));
    const float usual = known / precision;
    for (int64_t round = 0; round < use->rounds; round++) {
        for (int64_t c = 0; c < count; c++)
            weights[c] = agreeing[telling[c]] * usual / (variances[telling[c]] + relief[telling[c]]);
        expect(&field, weights, none, &use->maps, expected, support);
        for (int64_t k = 0; k < points; k++) {
            squared[k] = square(along_x[k] - expected[k]) + square(along_y[k] - expected[points + k]);
            const float variance = variances[k] + relief[k] + usual / support[k];
            agreeing[k] = agreement(squared[k] / (2 * use->agreeing * variance));
        }
        for (int64_t c = 0; c < count; c++) {
            weights[c] = agreeing[telling[c]];
            ends[c] = squared[telling[c]] / 2 - variances[telling[c]];
        }
        mean_around(&field, ends, weights, use->maps.tiny, relief);
        for (int64_t k = 0; k < points; k++)
            relief[k] = larger(relief[k], 0);
    }
    for (int64_t k = 0; k < points; k++) {
        const float variance = variances[k] + relief[k] + usual / support[k];
        const int trusted = squared[k] < square(use->contradicted) * variance; /* no NaN is */
        const float share = trusted ? variances[k] / variance : 0;
        settled[2 * k] = points1[2 * k] + (trusted ? share * (expected[k] - along_x[k]) : 0);
        settled[2 * k + 1] = points1[2 * k + 1] + (trusted ? share * (expected[points + k] - along_y[k]) : 0);
    }
    return 1;
}
