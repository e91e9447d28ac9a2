/* Optimal transport with dustbins: core/transport.py, whose numbers these are. */

#include "kernels.h"

#define ROWS 4 /* of the kernel at once, so that what they share is read a fourth as often */

/* Products of up to ROWS rows, `stride` apart, with v. */
INLINE void dots(const float *rows, int64_t stride, int64_t columns, int count, const float *v, float *products)
{
    const float *a = rows, *b = a + stride, *c = b + stride, *d = c + stride;
    float first = 0, second = 0, third = 0, fourth = 0;
    if (count == ROWS) {
#pragma omp simd reduction(+ : first, second, third, fourth)
        for (int64_t j = 0; j < columns; j++) {
            first += a[j] * v[j];
            second += b[j] * v[j];
            third += c[j] * v[j];
            fourth += d[j] * v[j];
        }
        products[0] = first;
        products[1] = second;
        products[2] = third;
        products[3] = fourth;
        return;
    }
    for (int i = 0; i < count; i++) {
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < columns; j++)
            sum += rows[i * stride + j] * v[j];
        products[i] = sum;
    }
}

/* Up to ROWS rows, each times its factor, are added to the sums. */
INLINE void add_multiples(float *sums, const float *rows, int64_t stride, int64_t columns, int count,
                          const float *factors)
{
    const float *a = rows, *b = a + stride, *c = b + stride, *d = c + stride;
    if (count == ROWS) {
#pragma omp simd
        for (int64_t j = 0; j < columns; j++)
            sums[j] += factors[0] * a[j] + factors[1] * b[j] + factors[2] * c[j] + factors[3] * d[j];
        return;
    }
    for (int i = 0; i < count; i++)
        for (int64_t j = 0; j < columns; j++)
            sums[j] += factors[i] * rows[i * stride + j];
}

INLINE int rows_at(int64_t i, int64_t n) { return i + ROWS <= n + 1 ? ROWS : (int)(n + 1 - i); }

INLINE float largest_of(const float *row, int64_t count)
{
    float most = -INFINITY;
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < count; i++)
        most = larger(most, row[i]);
    return most;
}

/* From a scaling `excess` times too large to the balanced one, and on by the share `ahead` of that step in logarithms,
 * at most by a factor of 2. */
INLINE float stepped(float balanced, float excess, float ahead)
{
    if (ahead == 0)
        return balanced;
    const float further = ahead == 0.5f ? 1 / sqrtf(excess) : powf(excess, -ahead);
    return balanced * smaller(larger(further, 0.5f), 2.0f);
}

/* exp of the similarity with dustbins, of which log_u is added to the rows and log_v to the columns. log_u begins as
 * what makes the largest of each row 1. */
INLINE void fill(float *kernel, int64_t stride, const float *similarity, int64_t n, int64_t m, float dustbin,
                 float *log_u, const float *log_v, int begins)
{
    for (int64_t i = 0; i <= n; i++) {
        float *row = kernel + i * stride;
        if (begins)
            log_u[i] = -(i < n ? larger(dustbin, largest_of(similarity + i * m, m)) : dustbin);
        const float lift = log_u[i];
        const float *own = similarity + i * m;
        if (i < n)
#pragma omp simd
            for (int64_t j = 0; j < m; j++)
                row[j] = exponential(own[j] + lift + log_v[j]);
        else
#pragma omp simd
            for (int64_t j = 0; j < m; j++)
                row[j] = exponential(dustbin + lift + log_v[j]);
        row[m] = exponential(dustbin + lift + log_v[m]);
    }
}

/* Whether a scaling is so far from 1 that it has to be moved into the kernel. */
INLINE int outgrown(const float *scaling, int64_t count, float above)
{
    float least = INFINITY, most = 0;
#pragma omp simd reduction(min : least) reduction(max : most)
    for (int64_t i = 0; i < count; i++) {
        least = smaller(least, scaling[i]);
        most = larger(most, scaling[i]);
    }
    return larger(most, 1 / least) > above;
}

INLINE void absorb(float *logarithms, float *scaling, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        logarithms[i] += logf(scaling[i]);
        scaling[i] = 1;
    }
}

/* similarity [n,m] -> values [n+1,m+1], rows of which lie `stride` apart, by at most `iterations` >= 1 steps, fewer
 * once the share `tolerance` of all mass is misplaced; space is for 3 (n + 1) + 3 (m + 1) floats. Both halves of a
 * step go over the kernel once: a row's new scaling is known as soon as the row has been read. pairs becomes the
 * number of entries above 1/2, dustbins aside. Returns how many steps were made. */
KERNEL int64_t em_transport(const float *similarity, int64_t n, int64_t m, float dustbin, int64_t iterations,
                            float tolerance, float relaxation, float absorb_above, float *values, int64_t stride,
                            int64_t *pairs, float *space)
{
    float *log_u = space, *u = log_u + n + 1, *next = u + n + 1;
    float *log_v = next + n + 1, *v = log_v + m + 1, *sums = v + m + 1;
    const int64_t columns = m + 1;
    const float least = tolerance * (n + m);
    for (int64_t i = 0; i <= n; i++) {
        u[i] = 1;
    }
    for (int64_t j = 0; j < columns; j++) {
        log_v[j] = 0;
        v[j] = 1;
    }
    fill(values, stride, similarity, n, m, dustbin, log_u, log_v, 1);
    int64_t done = 0;
    while (done < iterations) {
        const float ahead = done ? relaxation - 1 : 0; /* the first step is long enough */
        float off = 0;
        memset(sums, 0, columns * sizeof(float));
        for (int64_t i = 0; i <= n; i += ROWS) {
            const int count = rows_at(i, n);
            float products[ROWS];
            dots(values + i * stride, stride, columns, count, v, products);
            for (int64_t k = i; k < i + count; k++) {
                const float mass = k < n ? 1 : m, balanced = mass / products[k - i], excess = u[k] / balanced;
                off += mass * fabsf(excess - 1);
                next[k] = stepped(balanced, excess, ahead);
            }
            add_multiples(sums, values + i * stride, stride, columns, count, next + i);
        }
        if (done && off <= least)
            break;
        float *last = u;
        u = next;
        next = last;
        for (int64_t j = 0; j < columns; j++) {
            const float balanced = (j < m ? 1 : n) / sums[j];
            v[j] = stepped(balanced, v[j] / balanced, ahead);
        }
        done++;
        if (outgrown(u, n + 1, absorb_above) || outgrown(v, columns, absorb_above)) {
            absorb(log_u, u, n + 1);
            absorb(log_v, v, columns);
            fill(values, stride, similarity, n, m, dustbin, log_u, log_v, 0);
        }
    }
    if (relaxation != 1) {
        memset(sums, 0, columns * sizeof(float));
        for (int64_t i = 0; i <= n; i += ROWS)
            add_multiples(sums, values + i * stride, stride, columns, rows_at(i, n), u + i);
        for (int64_t j = 0; j < columns; j++)
            v[j] = (j < m ? 1 : n) / sums[j];
    }
    *pairs = 0;
    for (int64_t i = 0; i <= n; i++) {
        float *row = values + i * stride;
        int certain = 0;
        for (int64_t j = 0; j < columns; j++) {
            row[j] *= u[i] * v[j];
            certain += row[j] > 0.5f;
        }
        *pairs += i < n ? certain - (row[m] > 0.5f) : 0;
    }
    return done;
}

/* Entries above `least` of an assignment [n+1,m+1], rows of which lie `stride` apart, without its dustbins, row by row:
 * their rows, columns and values, at most `room` of them; the rows that have any, asked [n], and which of these an entry
 * is in, numbers. flags is space for m + FLAGS bytes of 0. Returns how many entries there are, or how many there would be. */
KERNEL int64_t em_entries(const float *values, int64_t stride, int64_t n, int64_t m, float least, int64_t room,
                          uint8_t *flags, int64_t *rows, int64_t *columns, float *chances, int64_t *numbers, int64_t *asked)
{
    int64_t found = 0, count = 0;
    for (int64_t i = 0; i < n; i++) {
        const float *row = values + i * stride;
        for (int64_t j = 0; j < m; j++)
            flags[j] = row[j] > least;
        Scan scan = {0, 0};
        for (int64_t j = next_set(&scan, flags, m); j < m; j = next_set(&scan, flags, m)) {
            if (!count || asked[count - 1] != i)
                asked[count++] = i;
            if (found < room) {
                numbers[found] = count - 1;
                rows[found] = i;
                columns[found] = j;
                chances[found] = row[j];
            }
            found++;
        }
    }
    return found;
}

/* Of entries, given by row and column, the ones that are the largest of both and at least `threshold`, of equal ones
 * the first, as keys. best is space for n + m numbers. Returns how many there are. */
KERNEL int64_t em_mutual(const int64_t *rows, const int64_t *columns, const float *scores, int64_t count, int64_t n,
                         int64_t m, float threshold, int64_t *best, int64_t *keys)
{
    int64_t *of_row = best, *of_column = best + n, found = 0;
    for (int64_t i = 0; i < n + m; i++)
        best[i] = -1;
    for (int64_t k = 0; k < count; k++) {
        if (!(scores[k] >= threshold))
            continue;
        if (of_row[rows[k]] < 0 || scores[k] > scores[of_row[rows[k]]])
            of_row[rows[k]] = k;
        if (of_column[columns[k]] < 0 || scores[k] > scores[of_column[columns[k]]])
            of_column[columns[k]] = k;
    }
    for (int64_t k = 0; k < count; k++)
        if (of_row[rows[k]] == k && of_column[columns[k]] == k)
            keys[found++] = key_of(scores[k], k);
    return found;
}
