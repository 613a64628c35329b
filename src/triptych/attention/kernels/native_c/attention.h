/* Attention over intervals of sorted keys, in float32 on a CPU; native.py says how it is used.
 * FlashAttention's tiling (arXiv 2205.14135, 2307.08691) with two softmaxes.
 *
 * A task works on blocks of at most BLOCK queries against tiles of at most TILE keys; both are
 * given by the compiler's command. What a task holds beside inputs and outputs lies in one scratch
 * area per thread. The structs are those of native.py and intervals.py.
 *
 * N queries of a block, T keys of a tile, D head width.
 */
#ifndef TRIPTYCH_ATTENTION_H
#define TRIPTYCH_ATTENTION_H

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

typedef int64_t i64;

enum { GROUPS = 2 };

/* Strides of a tensor (B, H, S, D), in numbers; the last is 1. */
typedef struct {
  float *data;
  i64 batch, head, token;
} Rows;

/* A tile of keys of one group: [start, stop) among the sorted keys of its row; ``first`` is the
 * place of the first, or -1 where they do not stand side by side. */
typedef struct {
  i64 start, stop, first;
} Tile;

/* One query: its place among the queries, what it sees of both groups, and the place of the key
 * whose value it adds, or -1. */
typedef struct {
  i64 place, start[GROUPS], stop[GROUPS], own;
} Query;

/* A block of queries of one row of the batch, with the tiles and sorted keys of that row. */
typedef struct {
  i64 row, begin, end, tile_begin[GROUPS], tile_end[GROUPS], key_begin[GROUPS];
} Block;

typedef struct {
  Rows query, key, value, out;
  Rows grad_query, grad_key, grad_value, grad_out;
  float *sums;           /* (GROUPS, H, queries of all rows): log of the sum of exponentials */
  float *scratch;        /* (threads, scratch_size) */
  const Block *blocks;   /* (block_count) */
  const Query *queries;  /* (query_count), of all rows */
  const Tile *tiles;     /* of all rows and groups */
  const i64 *keys;       /* places of the sorted keys of all rows and groups */
  const i64 *row_blocks; /* (B + 1): blocks of each row */
  i64 batch, heads, key_heads, grad_heads, width, query_count, block_count, scratch_size;
  float scale;
  int threads;
} Job;

void sgemm_(const char *, const char *, const int *, const int *, const int *, const float *,
            const float *, const int *, const float *, const int *, const float *, float *,
            const int *);

/* C (m, n) = A (m, k) B (k, n) + beta C, row by row; ``ta``/``tb``: that factor is transposed. */
static inline void multiply(char ta, char tb, i64 m, i64 n, i64 k, const float *a, i64 lda,
                            const float *b, i64 ldb, float beta, float *c, i64 ldc) {
  int im = m, in = n, ik = k, ia = lda, ib = ldb, ic = ldc;
  float one = 1;
  sgemm_(&tb, &ta, &in, &im, &ik, &one, b, &ib, a, &ia, &beta, c, &ic);
}

static inline i64 least(i64 a, i64 b) { return a < b ? a : b; }
static inline i64 most(i64 a, i64 b) { return a > b ? a : b; }

static inline float *at(Rows rows, i64 batch, i64 head, i64 token) {
  return rows.data + batch * rows.batch + head * rows.head + token * rows.token;
}

/* row[i] = exp(row[i] - top) to 2 units in the last place; returns the sum. A form that compilers
 * turn into vector code: 2 to the whole part by its bits, the rest by a polynomial. */
static inline float exponentials(float *row, i64 count, float top) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (i64 i = 0; i < count; i++) {
    float x = row[i] - top;
    x = x < -87.0f ? -87.0f : x;
    union {
      float number;
      int32_t bits;
    } shifted, scale;
    shifted.number = x * 1.44269504f + 12582912.0f;
    float whole = shifted.number - 12582912.0f;
    float rest = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    float power = 1.9875691500e-4f;
    power = power * rest + 1.3981999507e-3f;
    power = power * rest + 8.3334519073e-3f;
    power = power * rest + 4.1665795894e-2f;
    power = power * rest + 1.6666665459e-1f;
    power = power * rest + 5.0000001201e-1f;
    power = power * rest * rest + rest + 1.0f;
    scale.bits = (shifted.bits - 0x4B400000 + 127) << 23;
    row[i] = power * scale.number;
    sum += row[i];
  }
  return sum;
}

static inline float dot(const float *a, const float *b, i64 count) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (i64 i = 0; i < count; i++) sum += a[i] * b[i];
  return sum;
}

static inline void add_scaled(float *to, const float *from, float factor, i64 count) {
#pragma omp simd
  for (i64 i = 0; i < count; i++) to[i] += factor * from[i];
}

/* The keys [start, stop) that the queries of a block see in a group, taken together. */
static inline void reach(const Job *job, const Block *block, int group, i64 *start, i64 *stop) {
  *start = INT64_MAX, *stop = 0;
  for (i64 q = block->begin; q < block->end; q++) {
    const Query *query = &job->queries[q];
    if (query->start[group] >= query->stop[group]) continue;
    *start = least(*start, query->start[group]);
    *stop = most(*stop, query->stop[group]);
  }
}

/* A part of a tile: ``count`` keys from ``start`` among the sorted ones. */
typedef struct {
  i64 start, count;
  const i64 *places;
  float *key, *value; /* (count, D) in steps of key_step, value_step */
  i64 key_step, value_step;
} Part;

/* Cut a tile to [start, stop) and find its keys, copied side by side where they are not. */
static inline Part cut(const Job *job, const Block *block, int group, const Tile *tile, i64 start,
                       i64 stop, i64 head, float *key_room, float *value_room) {
  Part part;
  part.start = most(start, tile->start);
  part.count = least(stop, tile->stop) - part.start;
  part.places = job->keys + block->key_begin[group] + part.start;
  if (tile->first >= 0) {
    i64 place = tile->first + part.start - tile->start;
    part.key = at(job->key, block->row, head, place), part.key_step = job->key.token;
    part.value = at(job->value, block->row, head, place), part.value_step = job->value.token;
    return part;
  }
  i64 width = job->width;
  for (i64 i = 0; i < part.count; i++) {
    memcpy(key_room + i * width, at(job->key, block->row, head, part.places[i]),
           width * sizeof(float));
    memcpy(value_room + i * width, at(job->value, block->row, head, part.places[i]),
           width * sizeof(float));
  }
  part.key = key_room, part.value = value_room;
  part.key_step = part.value_step = width;
  return part;
}

/* What one query sees of a part: [first, last) of its keys. */
static inline void window(const Query *query, int group, const Part *part, i64 *first, i64 *last) {
  *first = least(most(query->start[group] - part->start, 0), part->count);
  *last = most(least(query->stop[group] - part->start, part->count), *first);
}

/* Queries, or what has their shape, side by side. */
static inline void collect(const Job *job, const Block *block, Rows from, i64 head, float factor,
                           float *to) {
  for (i64 q = block->begin; q < block->end; q++) {
    const float *row = at(from, block->row, head, job->queries[q].place);
    for (i64 d = 0; d < job->width; d++) to[d] = row[d] * factor;
    to += job->width;
  }
}

static inline float *sums_of(const Job *job, int group, i64 head, const Block *block) {
  return job->sums + (group * job->heads + head) * job->query_count + block->begin;
}

#endif
