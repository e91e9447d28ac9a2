/* The assignment held against the motion of neighbouring matches: the loops of core/motion_prior.py. */

#include "local_maps.h"

/* As core/motion_prior.py has them, under the same names. */
typedef struct {
    Maps maps;
    float spread_px, lookalikes, close_px, far_px;
} Settings;

/* How much denser than evenly over the image partners lie at a squared distance from where they are expected. */
INLINE float density(float squared, float variance, float area, float nothing)
{
    const float per_turn = 0.159154943f; /* 1 / (2 pi) */
    return exponential(larger(squared * (-0.5f / variance), nothing)) * (area * per_turn / variance);
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
 * what lookalikes count. space is for FIELD_SPACE, APPROACH_SPACE and 3 count + 4 points floats, begins for count numbers. */
KERNEL void em_reweighed(const float *chances, const int64_t *asked, const float *places1, int64_t entries,
                         const float *places0, const float *alone, int64_t points, const int64_t *telling,
                         const float *begun, int64_t count, float area, const Settings *use, int64_t *begins,
                         float *space, float *reweighed)
{
    Field field = field_in(space, begins, points, count);
    const float nothing = use->maps.nothing, tiny = use->maps.tiny;
    float *weights = space + FIELD_SPACE(points, count), *ends = weights + count, *expected = ends + 2 * count;
    float *support = expected + 2 * points, *sums = support + points, *rest = sums + points;
    for (int64_t c = 0; c < count; c++) {
        begins[c] = asked[telling[c]];
        ends[2 * c] = places1[2 * telling[c]];
        ends[2 * c + 1] = places1[2 * telling[c] + 1];
    }
    describe(&field, places0, ends, use->maps.unit_px);
    approach(&field, &use->maps, rest);
    float slopes[4];
    common_slopes(&field, begun, tiny, slopes);
    expect(&field, begun, slopes, &use->maps, expected, support);
    for (int64_t c = 0; c < count; c++) { /* which of them agree with their neighbours */
        const float score = chances[telling[c]], unsure = 1 + 0.5f / support[begins[c]];
        const float squared = miss(ends + 2 * c, expected, points, begins[c]);
        const float agreeing = score * density(squared, use->spread_px * use->spread_px * unsure, area, nothing);
        weights[c] = agreeing / (agreeing + use->lookalikes * (1 - score) + tiny);
    }
    expect(&field, weights, slopes, &use->maps, expected, support);
    memcpy(sums, alone, points * sizeof(float));
    for (int64_t k = 0; k < entries; k++) { /* half of the partners are close to where they are expected, half far */
        const int64_t q = asked[k];
        const float squared = miss(places1 + 2 * k, expected, points, q), unsure = 1 + 0.5f / support[q];
        const float close = density(squared, use->close_px * use->close_px * unsure, area, nothing);
        const float far = density(squared, use->far_px * use->far_px * unsure, area, nothing);
        reweighed[k] = chances[k] * 0.5f * (close + far);
        sums[q] += reweighed[k];
    }
    for (int64_t k = 0; k < entries; k++)
        reweighed[k] /= sums[asked[k]];
}
