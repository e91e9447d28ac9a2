/* A homography by reweighted least squares from a robust start: core/least_squares.py, and what core/geometry.py makes
 * of it. */

#include "least_squares.h"

/* Which version of these files was compiled. */
int64_t em_interface(void) { return INTERFACE; }

/* Whether all eigenvalues of the symmetric [8,8] part of equations [8,9] are above a bound, by Cholesky's factors. */
INLINE int all_above(const double *equations, double bound)
{
    double factor[UNKNOWNS][UNKNOWNS];
    for (int i = 0; i < UNKNOWNS; i++)
        for (int j = 0; j <= i; j++) {
            double left = equations[i * ROWS + j] - (i == j ? bound : 0);
            for (int k = 0; k < j; k++)
                left -= factor[i][k] * factor[j][k];
            if (i == j && !(left > 0))
                return 0;
            factor[i][j] = i == j ? sqrt(left) : left / factor[j][j];
        }
    return 1;
}

/* Whether enough points agree, and say more of every parameter than their noise does. */
INLINE int determined(const Problem *problem, const Settings *use, const Estimate *estimate)
{
    double normal[ROWS * ROWS], total = 0;
    int64_t inliers = 0;
    for (int64_t k = 0; k < problem->count; k++)
        if (estimate->squared[k] < problem->threshold * problem->threshold) {
            total += estimate->squared[k];
            inliers++;
        }
    if (inliers < use->least_inliers)
        return 0;
    normal_equations(problem, estimate->rows, estimate->squared, estimate->weights, INLIERS, normal);
    const double least = use->smallest_noise * problem->units[3], variance = fmax(total / inliers / 2, least * least);
    const double by_signal = inliers * use->least_signal * use->least_signal;
    return all_above(normal, fmax(1 / (use->largest_uncertainty * use->largest_uncertainty), by_signal) * variance);
}

/* slopes [8,8] of the projections x0 y0 x1 y1 .. of four corners [4,2] px by the elements of G. Returns 0 if one of them
 * lies beyond the horizon. */
INLINE int slopes_at(const double *corners, const Problem *problem, const Settings *use, const double *G, double *slopes)
{
    memset(slopes, 0, UNKNOWNS * UNKNOWNS * sizeof(double));
    for (int corner = 0; corner < UNKNOWNS / 2; corner++) {
        const double a = problem->units[0] * corners[2 * corner] + problem->units[1];
        const double b = problem->units[0] * corners[2 * corner + 1] + problem->units[2];
        const double depth = G[6] * a + G[7] * b + G[8];
        if (!(depth > use->horizon))
            return 0;
        const double ray[3] = {a / depth, b / depth, 1 / depth};
        for (int axis = 0; axis < 2; axis++) {
            double *row = slopes + (2 * corner + axis) * UNKNOWNS;
            const double place = G[3 * axis] * ray[0] + G[3 * axis + 1] * ray[1] + G[3 * axis + 2] * ray[2];
            for (int i = 0; i < 3; i++)
                row[3 * axis + i] = ray[i];
            row[6] = -place * ray[0];
            row[7] = -place * ray[1];
        }
    }
    return 1;
}

/* covariance [8,8] px^2 of the projections of four corners, of an M-estimate; NaN where it cannot be told. */
INLINE void covariance_at(const double *corners, const Problem *problem, const Settings *use, const Estimate *estimate,
                          double *covariance)
{
    double slopes[UNKNOWNS * UNKNOWNS], curvature[ROWS * ROWS], psi_squared = 0, total = 0;
    int64_t near = 0;
    for (int64_t k = 0; k < problem->count; k++) {
        psi_squared += estimate->weights[k] * estimate->weights[k] * estimate->standard[k];
        total += estimate->weights[k];
        near += estimate->weights[k] > 0;
    }
    for (int i = 0; i < UNKNOWNS * UNKNOWNS; i++)
        covariance[i] = NAN;
    /* with as many unknowns as residuals nothing is left to see the noise by */
    if (near <= use->fewest || !slopes_at(corners, problem, use, estimate->G, slopes))
        return;
    normal_equations(problem, estimate->rows, estimate->squared, estimate->weights, NEAR, curvature);
    const double scale = problem->units[3], least = use->least_noise * scale;
    const double slope = (total - psi_squared / estimate->noise / (use->freedom + 2)) / near;
    const double variance = fmax(psi_squared / 2 / (slope * slope) / (near - use->fewest), least * least);
    for (int i = 0; i < UNKNOWNS; i++) {
        double equations[ROWS * ROWS], solution[UNKNOWNS];
        memcpy(equations, curvature, sizeof equations);
        for (int k = 0; k < UNKNOWNS; k++)
            equations[k * ROWS + UNKNOWNS] = slopes[i * UNKNOWNS + k];
        if (!solve(equations, solution))
            return;
        for (int j = 0; j < UNKNOWNS; j++) {
            double sum = 0;
            for (int k = 0; k < UNKNOWNS; k++)
                sum += slopes[j * UNKNOWNS + k] * solution[k];
            covariance[i * UNKNOWNS + j] = sum * variance / (scale * scale);
        }
    }
}

/* H [3,3]: G between pixels. */
INLINE void between_pixels(const double *G, const double *units, double *H)
{
    double rows[9];
    for (int column = 0; column < 3; column++) { /* of the inverse of the unit of image 1 times G */
        rows[column] = (G[column] - units[4] * G[6 + column]) / units[3];
        rows[3 + column] = (G[3 + column] - units[5] * G[6 + column]) / units[3];
        rows[6 + column] = G[6 + column];
    }
    for (int row = 0; row < 3; row++) {
        H[3 * row] = rows[3 * row] * units[0];
        H[3 * row + 1] = rows[3 * row + 1] * units[0];
        H[3 * row + 2] = rows[3 * row] * units[1] + rows[3 * row + 1] * units[2] + rows[3 * row + 2];
    }
}

/* From a robust start between points [count,2] px, which is lost, to H [3,3] with H22 = 1, its errors [count] px,
 * and the covariance [8,8] px^2 of where the corners [4,2] go. spreads [count] may be null. chosen is space for
 * count bytes, `space` for 24 count numbers. Returns 0 where points do not determine one. */
KERNEL int64_t em_homography(const double *points0, const double *points1, double *start, int64_t count,
                             const double *spreads0, const double *spreads1, const double *corners, const Settings *use,
                             double *H, double *errors, double *covariance, uint8_t *chosen, double *space)
{
    double units[6] = {1, 0, 0, 1, 0, 0}, *rows = space + 8 * count, *scratch = rows + (ROWS + 3) * count;
    Problem problem = {space, space + 3 * count, units, space + 5 * count, 0, count};
    Estimate estimate = {{0}, rows, rows + ROWS * count, rows + (ROWS + 1) * count, rows + (ROWS + 2) * count, 0};
    put_ahead(points0, count, start);
    if (normalise(points0, points1, start, spreads0, spreads1, use, &problem, chosen, scratch) < use->fewest)
        return 0;
    between_units(start, units, estimate.G);
    if (!polish(&problem, use, &estimate, scratch) || !look(&problem, use, &estimate, scratch))
        return 0;
    between_pixels(estimate.G, units, H);
    const double last = H[8];
    if (!(last > use->horizon) || !determined(&problem, use, &estimate))
        return 0;
    for (int i = 0; i < ROWS; i++)
        H[i] /= last;
    for (int64_t k = 0; k < count; k++)
        errors[k] = sqrt(estimate.squared[k]) / units[3];
    covariance_at(corners, &problem, use, &estimate, covariance);
    return 1;
}
