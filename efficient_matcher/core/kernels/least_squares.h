/* Reweighted least squares of a homography: core/least_squares.py, step by step under the same names. */
#ifndef EFFICIENT_MATCHER_LEAST_SQUARES_H
#define EFFICIENT_MATCHER_LEAST_SQUARES_H

#include "kernels.h"

#define ROWS 9
#define LANES 8
#define UNKNOWNS 8

/* As core/least_squares.py has them, under the same names. */
typedef struct {
    double horizon, far, threshold, reach, freedom, unit_median, most_uneven, least_round, converged, smallest_noise,
        least_noise, largest_uncertainty, least_signal;
    int64_t steps, fewest, least_inliers;
} Settings;

/* Points of both images in normalised coordinates, points0 [3,count] and points1 [2,count]; their units, of each image a
 * scale and a shift; the whitening [3,count]; threshold, in those coordinates. */
typedef struct {
    double *points0, *points1, *units, *whitening, threshold;
    int64_t count;
} Problem;

INLINE double clamped(double value, double least, double most)
{
    return value < least ? least : value > most ? most : value;
}

/* The rank-th smallest, from 0, of `count` values, which are moved about (Hoare's selection). */
INLINE double selected(double *values, int64_t count, int64_t rank)
{
    int64_t low = 0, high = count - 1;
    while (low < high) {
        const double pivot = values[low + (high - low) / 2];
        int64_t i = low, j = high;
        while (i <= j) {
            while (values[i] < pivot)
                i++;
            while (values[j] > pivot)
                j--;
            if (i <= j) {
                const double value = values[i];
                values[i++] = values[j];
                values[j--] = value;
            }
        }
        if (rank <= j)
            high = j;
        else if (rank >= i)
            low = i;
        else
            break;
    }
    return values[rank];
}

/* unit [3]: the scale and the shift that bring the chosen points of [2,count] to mean 0 and a mean distance of sqrt(2)
 * from it; all of them are brought along. */
INLINE void to_unit(double *points, const uint8_t *chosen, int64_t count, int64_t among, double *unit)
{
    double *xs = points, *ys = points + count, x = 0, y = 0, distance = 0;
    for (int64_t k = 0; k < count; k++) {
        x += chosen[k] ? xs[k] : 0;
        y += chosen[k] ? ys[k] : 0;
    }
    x /= among;
    y /= among;
    for (int64_t k = 0; k < count; k++)
        distance += chosen[k] ? sqrt((xs[k] - x) * (xs[k] - x) + (ys[k] - y) * (ys[k] - y)) : 0;
    const double spread = distance / among / sqrt(2), scale = spread > 1e-6 ? 1 / spread : 1;
    unit[0] = scale;
    unit[1] = -scale * x;
    unit[2] = -scale * y;
    for (int64_t k = 0; k < count; k++) {
        xs[k] = scale * xs[k] + unit[1];
        ys[k] = scale * ys[k] + unit[2];
    }
}

/* whitening [3,count] of the noise of points 1 and of that of points 0 [count,2] as H stretches it, relative to the
 * median variance of the chosen points. 1, 0, 1 where nothing is known. space is for 4 count numbers. */
INLINE void whiten(const double *points0, const double *H, const uint8_t *chosen, int64_t count, const double *spreads0,
                   const double *spreads1, const Settings *use, double *whitening, double *space)
{
    double *xx = space, *yy = xx + count, *xy = yy + count, *variances = xy + count;
    int64_t known = 0;
    for (int64_t k = 0; k < count; k++) {
        const double a = points0[2 * k], b = points0[2 * k + 1];
        const double depth = fmax(H[6] * a + H[7] * b + H[8], use->horizon);
        const double x = (H[0] * a + H[1] * b + H[2]) / depth, y = (H[3] * a + H[4] * b + H[5]) / depth;
        const double x_by_x = (H[0] - x * H[6]) / depth, x_by_y = (H[1] - x * H[7]) / depth;
        const double y_by_x = (H[3] - y * H[6]) / depth, y_by_y = (H[4] - y * H[7]) / depth;
        const int finite = isfinite(spreads0[k]) && isfinite(spreads1[k]); /* such a spread says nothing */
        const double noise0 = finite ? spreads0[k] * spreads0[k] : 0, noise1 = finite ? spreads1[k] * spreads1[k] : 0;
        xx[k] = noise0 * (x_by_x * x_by_x + x_by_y * x_by_y) + noise1;
        yy[k] = noise0 * (y_by_x * y_by_x + y_by_y * y_by_y) + noise1;
        xy[k] = noise0 * (x_by_x * y_by_x + x_by_y * y_by_y);
        const double variance = (xx[k] + yy[k]) / 2;
        if (chosen[k] && variance > 0)
            variances[known++] = variance;
    }
    const double median = known ? selected(variances, known, known / 2) : 0;
    for (int64_t k = 0; k < count; k++) {
        double variance = (xx[k] + yy[k]) / 2;
        if (!(variance > 0))
            xx[k] = yy[k] = variance = median;
        const double within = known ? clamped(variance / median, 1 / use->most_uneven, use->most_uneven) : 1;
        const double scale = known ? within / variance : 1;
        const double along_x = known ? xx[k] * scale : 1, along_y = known ? yy[k] * scale : 1;
        const double across = known ? xy[k] * scale : 0, skew = across / along_x;
        const double to_y = 1 / sqrt(fmax(along_y - across * skew, use->least_round * within));
        whitening[k] = 1 / sqrt(along_x);
        whitening[count + k] = -skew * to_y;
        whitening[2 * count + k] = to_y;
    }
}

/* H [3,3] with the sign that puts most of the points [count,2] before the horizon. */
INLINE void put_ahead(const double *points, int64_t count, double *H)
{
    int64_t ahead = 0;
    for (int64_t k = 0; k < count; k++)
        ahead += H[6] * points[2 * k] + H[7] * points[2 * k + 1] + H[8] > 0;
    for (int i = 0; i < ROWS && 2 * ahead <= count; i++)
        H[i] = -H[i];
}

/* The problem of points [count,2] px: those that agree with H give the units. spreads [count] may be null; chosen is space
 * for count bytes, `space` for 4 count numbers. Returns how many agree. */
INLINE int64_t normalise(const double *points0, const double *points1, const double *H, const double *spreads0,
                         const double *spreads1, const Settings *use, Problem *problem, uint8_t *chosen, double *space)
{
    const int64_t count = problem->count;
    int64_t agreeing = 0;
    for (int64_t k = 0; k < count; k++) {
        const double a = points0[2 * k], b = points0[2 * k + 1], depth = H[6] * a + H[7] * b + H[8];
        const double dx = points1[2 * k] - (H[0] * a + H[1] * b + H[2]) / depth;
        const double dy = points1[2 * k + 1] - (H[3] * a + H[4] * b + H[5]) / depth;
        chosen[k] = depth > use->horizon && dx * dx + dy * dy < use->threshold * use->threshold;
        agreeing += chosen[k];
        problem->points0[k] = a;
        problem->points0[count + k] = b;
        problem->points0[2 * count + k] = 1;
        problem->points1[k] = points1[2 * k];
        problem->points1[count + k] = points1[2 * k + 1];
        problem->whitening[k] = problem->whitening[2 * count + k] = 1;
        problem->whitening[count + k] = 0;
    }
    if (!agreeing)
        return 0;
    if (spreads0 && spreads1)
        whiten(points0, H, chosen, count, spreads0, spreads1, use, problem->whitening, space);
    to_unit(problem->points0, chosen, count, agreeing, problem->units);
    to_unit(problem->points1, chosen, count, agreeing, problem->units + 3);
    problem->threshold = use->threshold * problem->units[3];
    return agreeing;
}

/* G [3,3]: H between normalised coordinates. */
INLINE void between_units(const double *H, const double *units, double *G)
{
    double columns[9];
    for (int row = 0; row < 3; row++) { /* of H times the inverse of the unit of image 0 */
        columns[3 * row] = H[3 * row] / units[0];
        columns[3 * row + 1] = H[3 * row + 1] / units[0];
        columns[3 * row + 2] = H[3 * row + 2] - (H[3 * row] * units[1] + H[3 * row + 1] * units[2]) / units[0];
    }
    for (int column = 0; column < 3; column++) {
        G[column] = units[3] * columns[column] + units[4] * columns[6 + column];
        G[3 + column] = units[3] * columns[3 + column] + units[5] * columns[6 + column];
        G[6 + column] = columns[6 + column];
    }
}

/* Projections by G: rows [9,count] and squared [count] as `Linearized` has them, 0 and `far` beyond the horizon. */
INLINE void linearize(const Problem *problem, const double *G, const Settings *use, double *rows, double *squared)
{
    const int64_t count = problem->count;
    for (int64_t k = 0; k < count; k++) {
        const double a = problem->points0[k], b = problem->points0[count + k];
        const double depth = G[6] * a + G[7] * b + G[8], ahead = depth > use->horizon ? 1 : 0;
        const double per = ahead / (ahead ? depth : 1), r0 = a * per, r1 = b * per, r2 = per;
        const double x = G[0] * r0 + G[1] * r1 + G[2] * r2, y = G[3] * r0 + G[4] * r1 + G[5] * r2;
        const double dx = ahead * problem->points1[k] - x, dy = ahead * problem->points1[count + k] - y;
        rows[k] = r0;
        rows[count + k] = r1;
        rows[2 * count + k] = r2;
        rows[3 * count + k] = -x * r0;
        rows[4 * count + k] = -x * r1;
        rows[5 * count + k] = dx;
        rows[6 * count + k] = -y * r0;
        rows[7 * count + k] = -y * r1;
        rows[8 * count + k] = dy;
        squared[k] = ahead ? dx * dx + dy * dy : use->far;
    }
}

/* standard [count]: lengths of the whitened residuals. weights [count] of a t distribution, beside those of the noise; 0
 * out of reach. space is for count numbers. Returns the noise, from the median of the points that agree, or -1 if too
 * few do. */
INLINE double weigh(const Problem *problem, const Settings *use, const double *rows, const double *squared,
                    double *standard, double *weights, double *space)
{
    const int64_t count = problem->count;
    const double *to_x = problem->whitening, *across = to_x + count, *to_y = across + count;
    const double threshold = problem->threshold;
    int64_t within = 0;
    for (int64_t k = 0; k < count; k++) {
        const double dx = rows[5 * count + k], dy = rows[8 * count + k];
        const double first = to_x[k] * dx, second = across[k] * dx + to_y[k] * dy;
        standard[k] = first * first + second * second;
        if (squared[k] < threshold * threshold)
            space[within++] = standard[k];
    }
    if (within < use->fewest)
        return -1;
    const double noise = fmax(selected(space, within, within / 2) / use->unit_median, 1e-18 * threshold * threshold);
    for (int64_t k = 0; k < count; k++) {
        const double weight = (use->freedom + 2) / (use->freedom + standard[k] / noise);
        weights[k] = squared[k] < use->reach * use->reach * threshold * threshold ? weight : 0;
    }
    return noise;
}

/* Which points a sum is over, and as what. */
enum { WEIGHTED, NEAR, INLIERS };

/* J^T W J with J^T W r as its last column, sums [9,9]: whitened and by weights, or by 1 where these are not 0, or plain
 * for the points that agree. A point's whitened Jacobian is (a ray, 0, a x) and (b ray, c ray, b x + c y). */
INLINE void normal_equations(const Problem *problem, const double *rows, const double *squared, const double *weights,
                             int kind, double *sums)
{
    const int64_t count = problem->count;
    const double *to_x = problem->whitening, *across = to_x + count, *to_y = across + count;
    double upper[ROWS][ROWS][LANES] = {{{0}}};
    for (int64_t start = 0; start < count; start += LANES) {
        double first[ROWS][LANES] = {{0}}, second[ROWS][LANES] = {{0}}, weight[LANES] = {0};
        const int64_t width = start + LANES < count ? LANES : count - start;
        for (int64_t q = 0; q < width; q++) {
            const int64_t k = start + q;
            const int plain = kind == INLIERS;
            const double a = plain ? 1 : to_x[k], b = plain ? 0 : across[k], c = plain ? 1 : to_y[k];
            for (int p = 0; p < 3; p++) {
                const double ray = rows[p * count + k], x = rows[(3 + p) * count + k], y = rows[(6 + p) * count + k];
                first[p][q] = a * ray;
                first[6 + p][q] = a * x;
                second[p][q] = b * ray;
                second[3 + p][q] = c * ray;
                second[6 + p][q] = b * x + c * y;
            }
            weight[q] = kind == WEIGHTED ? weights[k]
                        : kind == NEAR   ? weights[k] > 0
                                         : squared[k] < problem->threshold * problem->threshold;
        }
        for (int i = 0; i < ROWS; i++)
            for (int j = i; j < ROWS; j++)
                for (int q = 0; q < LANES; q++)
                    upper[i][j][q] += weight[q] * (first[i][q] * first[j][q] + second[i][q] * second[j][q]);
    }
    for (int i = 0; i < ROWS; i++)
        for (int j = i; j < ROWS; j++) {
            double sum = 0;
            for (int q = 0; q < LANES; q++)
                sum += upper[i][j][q];
            sums[i * ROWS + j] = sums[j * ROWS + i] = sum;
        }
}

/* step [8] of the equations [8,9], whose last column is the right side, by elimination; these are lost. Returns 0 if
 * they are singular. */
INLINE int solve(double *equations, double *step)
{
    for (int i = 0; i < UNKNOWNS; i++) {
        int pivot = i;
        for (int row = i + 1; row < UNKNOWNS; row++)
            if (fabs(equations[row * ROWS + i]) > fabs(equations[pivot * ROWS + i]))
                pivot = row;
        if (equations[pivot * ROWS + i] == 0)
            return 0;
        for (int column = i; column < ROWS && pivot != i; column++) {
            const double value = equations[i * ROWS + column];
            equations[i * ROWS + column] = equations[pivot * ROWS + column];
            equations[pivot * ROWS + column] = value;
        }
        for (int row = i + 1; row < UNKNOWNS; row++) {
            const double factor = equations[row * ROWS + i] / equations[i * ROWS + i];
            for (int column = i; column < ROWS; column++)
                equations[row * ROWS + column] -= factor * equations[i * ROWS + column];
        }
    }
    for (int i = UNKNOWNS - 1; i >= 0; i--) {
        step[i] = equations[i * ROWS + UNKNOWNS];
        for (int column = i + 1; column < UNKNOWNS; column++)
            step[i] -= equations[i * ROWS + column] * step[column];
        step[i] /= equations[i * ROWS + i];
    }
    return 1;
}

/* The estimate in normalised coordinates, and what is known of the points under it. */
typedef struct {
    double G[9], *rows, *squared, *standard, *weights, noise;
} Estimate;

/* Projections, residuals and weights by the estimate's G. Returns 0 if too few points agree. */
INLINE int look(const Problem *problem, const Settings *use, Estimate *estimate, double *space)
{
    linearize(problem, estimate->G, use, estimate->rows, estimate->squared);
    estimate->noise = weigh(problem, use, estimate->rows, estimate->squared, estimate->standard, estimate->weights, space);
    return estimate->noise >= 0;
}

/* Gauss-Newton steps on the weighted reprojection errors. Returns 0 where they lead nowhere. */
INLINE int polish(const Problem *problem, const Settings *use, Estimate *estimate, double *space)
{
    double equations[ROWS * ROWS], step[UNKNOWNS], largest = INFINITY;
    for (int64_t round = 0; round < use->steps && !(largest < use->converged); round++) {
        const double last = estimate->G[8];
        if (!(fabs(last) > use->horizon))
            return 0;
        for (int i = 0; i < ROWS; i++)
            estimate->G[i] /= last;
        if (!look(problem, use, estimate, space))
            return 0;
        normal_equations(problem, estimate->rows, estimate->squared, estimate->weights, WEIGHTED, equations);
        if (!solve(equations, step))
            return 0;
        largest = 0;
        for (int i = 0; i < UNKNOWNS; i++) {
            estimate->G[i] += step[i];
            largest = fabs(step[i]) > largest || step[i] != step[i] ? fabs(step[i]) : largest;
        }
    }
    return 1;
}

#endif
