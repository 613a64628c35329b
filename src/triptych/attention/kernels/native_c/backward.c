/* The backward pass; see attention.h. */
#include "attention.h"

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
  int small = !seen[0] || (seen[1] && stop[1] - start[1] < stop[0] - start[0]);
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
