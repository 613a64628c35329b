/* The forward pass; see attention.h. */
#include "attention.h"

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
