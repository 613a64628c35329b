/* Attention over intervals of sorted keys, in float32 on a CPU; native.py says how it is used.
 * FlashAttention's tiling (arXiv 2205.14135, 2307.08691) with two softmaxes.
 *
 * A task works on blocks of at most BLOCK queries against tiles of at most TILE keys; both are
 * given by the compiler's command. What a task holds beside inputs and outputs lies in one scratch
 * area per thread. The structs are those of native.py and intervals.py.
 *
 * N queries of a block, T keys of a tile, D head width.
 */
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
static void multiply(char ta, char tb, i64 m, i64 n, i64 k, const float *a, i64 lda, const float *b,
                     i64 ldb, float beta, float *c, i64 ldc) {
  int im = m, in = n, ik = k, ia = lda, ib = ldb, ic = ldc;
  float one = 1;
  sgemm_(&tb, &ta, &in, &im, &ik, &one, b, &ib, a, &ia, &beta, c, &ic);
}

static i64 least(i64 a, i64 b) { return a < b ? a : b; }
static i64 most(i64 a, i64 b) { return a > b ? a : b; }

static float *at(Rows rows, i64 batch, i64 head, i64 token) {
  return rows.data + batch * rows.batch + head * rows.head + token * rows.token;
}

/* row[i] = exp(row[i] - top) to 2 units in the last place; returns the sum. A form that compilers
 * turn into vector code: 2 to the whole part by its bits, the rest by a polynomial. */
static float exponentials(float *row, i64 count, float top) {
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

static float dot(const float *a, const float *b, i64 count) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (i64 i = 0; i < count; i++) sum += a[i] * b[i];
  return sum;
}

static void add_scaled(float *to, const float *from, float factor, i64 count) {
#pragma omp simd
  for (i64 i = 0; i < count; i++) to[i] += factor * from[i];
}

/* The keys [start, stop) that the queries of a block see in a group, taken together. */
static void reach(const Job *job, const Block *block, int group, i64 *start, i64 *stop) {
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
static Part cut(const Job *job, const Block *block, int group, const Tile *tile, i64 start,
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
static void window(const Query *query, int group, const Part *part, i64 *first, i64 *last) {
  *first = least(most(query->start[group] - part->start, 0), part->count);
  *last = most(least(query->stop[group] - part->start, part->count), *first);
}

/* One tile's scores (N, T) to weights relative to the greatest so far, in place. */
static void soften(const Job *job, const Block *block, int group, const Part *part, float *scores,
                   float *greatest, float *total, float *out, int begun) {
  for (i64 q = block->begin, n = 0; q < block->end; q++, n++) {
    float *row = scores + n * part->count;
    i64 first, last;
    window(&job->queries[q], group, part, &first, &last);
    memset(row, 0, first * sizeof(float));
    memset(row + last, 0, (part->count - last) * sizeof(float));
    if (first == last) continue;
    float top = greatest[n];
#pragma omp simd reduction(max : top)
    for (i64 t = first; t < last; t++) top = row[t] > top ? row[t] : top;
    float sum = exponentials(row + first, last - first, top);
    float fade = greatest[n] == -INFINITY ? 0 : expf(greatest[n] - top);
    total[n] = total[n] * fade + sum;
    greatest[n] = top;
    if (begun && fade != 1)
      for (i64 d = 0; d < job->width; d++) out[n * job->width + d] *= fade;
  }
}

/* Queries, or what has their shape, side by side. */
static void collect(const Job *job, const Block *block, Rows from, i64 head, float factor,
                    float *to) {
  for (i64 q = block->begin; q < block->end; q++) {
    const float *row = at(from, block->row, head, job->queries[q].place);
    for (i64 d = 0; d < job->width; d++) to[d] = row[d] * factor;
    to += job->width;
  }
}

static float *sums_of(const Job *job, int group, i64 head, const Block *block) {
  return job->sums + (group * job->heads + head) * job->query_count + block->begin;
}

static void forward_block(const Job *job, const Block *block, i64 head, float *scratch) {
  i64 width = job->width, count = block->end - block->begin;
  i64 key_head = head / (job->heads / job->key_heads);
  float *scores = scratch, *query = scores + BLOCK * TILE, *out = query + BLOCK * width;
  float *greatest = out + BLOCK * width, *total = greatest + BLOCK;
  float *key_room = total + BLOCK, *value_room = key_room + TILE * width;
  int collected = 0;
  for (i64 q = block->begin; q < block->end; q++) {
    float *row = at(job->out, block->row, head, job->queries[q].place);
    if (job->queries[q].own >= 0)
      memcpy(row, at(job->value, block->row, key_head, job->queries[q].own), width * sizeof(float));
    else
      memset(row, 0, width * sizeof(float));
  }
  for (int group = 0; group < GROUPS; group++) {
    float *sums = sums_of(job, group, head, block);
    i64 start, stop;
    reach(job, block, group, &start, &stop);
    for (i64 n = 0; n < count; n++) greatest[n] = -INFINITY, total[n] = 0, sums[n] = INFINITY;
    if (start >= stop) continue;
    if (!collected++) collect(job, block, job->query, head, job->scale, query);
    int begun = 0;
    for (i64 t = block->tile_begin[group]; t < block->tile_end[group]; t++) {
      const Tile *tile = &job->tiles[t];
      if (tile->stop <= start || tile->start >= stop) continue;
      Part part = cut(job, block, group, tile, start, stop, key_head, key_room, value_room);
      multiply('N', 'T', count, part.count, width, query, width, part.key, part.key_step, 0, scores,
               part.count);
      soften(job, block, group, &part, scores, greatest, total, out, begun);
      multiply('N', 'N', count, width, part.count, scores, part.count, part.value, part.value_step,
               begun, out, width);
      begun = 1;
    }
    for (i64 n = 0; n < count; n++) {
      if (total[n] == 0) continue;
      sums[n] = greatest[n] + logf(total[n]);
      float *row = at(job->out, block->row, head, job->queries[block->begin + n].place);
      add_scaled(row, out + n * width, 1 / total[n], width);
    }
  }
}

/* Weights (N, T) of a part again, and the gradient (N, T) of each weight. */
static void weigh(const Job *job, const Block *block, int group, const Part *part, i64 head,
                  const float *query, const float *grad, float *weights, float *slopes) {
  i64 width = job->width, count = block->end - block->begin;
  const float *sums = sums_of(job, group, head, block);
  multiply('N', 'T', count, part->count, width, query, width, part->key, part->key_step, 0, weights,
           part->count);
  multiply('N', 'T', count, part->count, width, grad, width, part->value, part->value_step, 0,
           slopes, part->count);
  for (i64 n = 0; n < count; n++) {
    float *row = weights + n * part->count;
    i64 first, last;
    window(&job->queries[block->begin + n], group, part, &first, &last);
    memset(row, 0, first * sizeof(float));
    memset(row + last, 0, (part->count - last) * sizeof(float));
    exponentials(row + first, last - first, sums[n]);
  }
}

/* Add to the gradient of a part's keys or values, through (T, D) where they are scattered. */
static void add_product(const Job *job, const Block *block, const Part *part, int gathered,
                        const float *weights, const float *rows, Rows to, i64 head, float *room) {
  i64 width = job->width, count = block->end - block->begin;
  if (!gathered) {
    float *place = at(to, block->row, head, part->places[0]);
    multiply('T', 'N', part->count, width, count, weights, part->count, rows, width, 1, place,
             to.token);
    return;
  }
  multiply('T', 'N', part->count, width, count, weights, part->count, rows, width, 0, room, width);
  for (i64 t = 0; t < part->count; t++)
    add_scaled(at(to, block->row, head, part->places[t]), room + t * width, 1, width);
}

/* Scratch of a backward task, see ``scratch_size``. */
typedef struct {
  float *weights, *slopes, *query, *grad, *grad_query, *means[GROUPS], *key, *value;
} Room;

static Room furnish(const Job *job, float *scratch) {
  Room room;
  room.weights = scratch, room.slopes = room.weights + BLOCK * TILE;
  room.query = room.slopes + BLOCK * TILE, room.grad = room.query + BLOCK * job->width;
  room.grad_query = room.grad + BLOCK * job->width;
  room.means[0] = room.grad_query + BLOCK * job->width;
  room.means[1] = room.means[0] + BLOCK;
  room.key = room.means[1] + BLOCK, room.value = room.key + TILE * job->width;
  return room;
}

/* For each query the mean of its weights' gradients in the smaller group, from its weights; in the
 * other, what is left of the product of output and gradient. */
static void find_means(const Job *job, const Block *block, i64 head, i64 key_head, const Room *room,
                       const i64 *start, const i64 *stop) {
  i64 width = job->width, count = block->end - block->begin;
  int seen[GROUPS] = {start[0] < stop[0], start[1] < stop[1]};
  int small = !seen[0] || (seen[1] && stop[1] - start[1] < stop[0] - start[0]) ? 1 : 0;
  if (!seen[small]) small = 1 - small;
  float *mean = room->means[small], *rest = room->means[1 - small];
  memset(mean, 0, count * sizeof(float));
  for (i64 n = 0; n < count; n++) {
    const Query *query = &job->queries[block->begin + n];
    const float *grad = room->grad + n * width;
    rest[n] = dot(grad, at(job->out, block->row, head, query->place), width);
    if (query->own >= 0)
      rest[n] -= dot(grad, at(job->value, block->row, key_head, query->own), width);
  }
  if (!seen[1 - small]) {
    memcpy(mean, rest, count * sizeof(float));
    return;
  }
  for (i64 t = block->tile_begin[small]; t < block->tile_end[small]; t++) {
    const Tile *tile = &job->tiles[t];
    if (tile->stop <= start[small] || tile->start >= stop[small]) continue;
    Part part = cut(job, block, small, tile, start[small], stop[small], key_head, room->key,
                    room->value);
    weigh(job, block, small, &part, head, room->query, room->grad, room->weights, room->slopes);
    for (i64 n = 0; n < count; n++)
      mean[n] += dot(room->weights + n * part.count, room->slopes + n * part.count, part.count);
  }
  for (i64 n = 0; n < count; n++) rest[n] -= mean[n];
}

static void backward_group(const Job *job, const Block *block, int group, i64 head,
                           const Room *room, i64 start, i64 stop, int *begun) {
  i64 width = job->width, count = block->end - block->begin;
  i64 key_head = head / (job->heads / job->key_heads);
  i64 grad_head = head / (job->heads / job->grad_heads);
  for (i64 t = block->tile_begin[group]; t < block->tile_end[group]; t++) {
    const Tile *tile = &job->tiles[t];
    if (tile->stop <= start || tile->start >= stop) continue;
    Part part = cut(job, block, group, tile, start, stop, key_head, room->key, room->value);
    int gathered = tile->first < 0;
    weigh(job, block, group, &part, head, room->query, room->grad, room->weights, room->slopes);
    add_product(job, block, &part, gathered, room->weights, room->grad, job->grad_value, grad_head,
                room->value);
    for (i64 n = 0; n < count; n++) {
      float *slope = room->slopes + n * part.count, *weight = room->weights + n * part.count;
      float mean = room->means[group][n];
#pragma omp simd
      for (i64 i = 0; i < part.count; i++) slope[i] = weight[i] * (slope[i] - mean);
    }
    multiply('N', 'N', count, width, part.count, room->slopes, part.count, part.key, part.key_step,
             *begun, room->grad_query, width);
    add_product(job, block, &part, gathered, room->slopes, room->query, job->grad_key, grad_head,
                room->key);
    *begun = 1;
  }
}

static void backward_block(const Job *job, const Block *block, i64 head, float *scratch) {
  i64 width = job->width, key_head = head / (job->heads / job->key_heads);
  i64 start[GROUPS], stop[GROUPS];
  Room room = furnish(job, scratch);
  int begun = 0, sees = 0;
  for (int group = 0; group < GROUPS; group++) {
    reach(job, block, group, &start[group], &stop[group]);
    sees |= start[group] < stop[group];
  }
  for (i64 q = block->begin; q < block->end; q++)
    if (job->queries[q].own >= 0)
      add_scaled(at(job->grad_value, block->row, head / (job->heads / job->grad_heads),
                    job->queries[q].own),
                 at(job->grad_out, block->row, head, job->queries[q].place), 1, width);
  if (sees) {
    collect(job, block, job->query, head, job->scale, room.query);
    collect(job, block, job->grad_out, head, 1, room.grad);
    find_means(job, block, head, key_head, &room, start, stop);
    for (int group = 0; group < GROUPS; group++)
      if (start[group] < stop[group])
        backward_group(job, block, group, head, &room, start[group], stop[group], &begun);
  }
  for (i64 q = block->begin, n = 0; q < block->end; q++, n++) {
    float *row = at(job->grad_query, block->row, head, job->queries[q].place);
    memset(row, 0, width * sizeof(float));
    if (begun) add_scaled(row, room.grad_query + n * width, job->scale, width);
  }
}

/* Floats of scratch per thread. */
i64 scratch_size(i64 width, int backward, int gathers) {
  i64 rooms = gathers ? 2 * TILE * width : 0;
  return (1 + backward) * BLOCK * TILE + (2 + backward) * BLOCK * width + 2 * BLOCK + rooms;
}

void forward(const Job *job) {
  i64 tasks = job->block_count * job->heads;
#pragma omp parallel for num_threads(job->threads) schedule(dynamic)
  for (i64 task = 0; task < tasks; task++)
    forward_block(job, &job->blocks[task % job->block_count], task / job->block_count,
                  job->scratch + omp_get_thread_num() * job->scratch_size);
}

/* Gradients of keys and values start at 0; they have ``grad_heads`` heads, each that of as many
 * query heads. A task owns all that goes to one of them. */
void backward(const Job *job) {
  i64 share = job->heads / job->grad_heads, tasks = job->batch * job->grad_heads;
#pragma omp parallel for num_threads(job->threads) schedule(dynamic)
  for (i64 task = 0; task < tasks; task++) {
    i64 row = task / job->grad_heads, first = task % job->grad_heads * share;
    float *scratch = job->scratch + omp_get_thread_num() * job->scratch_size;
    for (i64 head = first; head < first + share; head++)
      for (i64 b = job->row_blocks[row]; b < job->row_blocks[row + 1]; b++)
        backward_block(job, &job->blocks[b], head, scratch);
  }
}
