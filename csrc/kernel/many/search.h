// What a search for the nearest of many-featured centroids is given: five structs, each made by a
// file of host/.
#pragma once

#include "kernel/limits.h"

namespace km {

// The centroids, made ready. A place holds a centroid, or fills up sixteen.
template <typename T>
struct Places {
  int64_t k, d, stride;  // stride: d filled up to a multiple of 16, by zeros
  int64_t count;         // of places: k filled up to a multiple of 16; 0: every centroid is tried
  const T* centroids;    // (count, stride)
  const int32_t* index;  // (count): which centroid
  const int32_t* position;  // (k): its place
};

// Coordinates of rows and centroids: all features, or directions and the norm of the rest; pairs of
// whole numbers of 16 bits, in units of √norm / kWhole.
struct Coordinates {
  int64_t pitch;                // pairs from one row to the next, a multiple of 16
  int64_t width;                // how many of them are there, not zeros
  int64_t directions;           // how many directions there are; 0: all features, no rest
  const float* basis;           // (directions / 16 rounded up, d, 16)
  const float* center;          // (stride): the origin
  const int32_t* of_centroids;  // (places, pitch)
  const float* units;           // (places)
  const float* offsets;  // (places): -½‖c‖², rounded up; -infinity where there is no centroid
  float margin;          // rounding of scores, relative to the squared norms
  float blur;            // rounding of the rest's square, relative to the squared norm
  float slack;           // of a squared distance, relative to it: more than 1
};

// Coordinates of the rows, kept from call to call; all may be null.
struct RowCoordinates {
  int32_t* coordinates;  // (n, pitch)
  float* norms;          // (n), squared
  int32_t* columns;      // for seeding: (n filled up to blocks / lanes, width, lanes)
  bool measured;         // coordinates or columns, and norms are there
};

// Lower bounds on the distances of rows to groups of centroids (Elkan; Yinyang), kept from call to
// call. A group is so many places. With step = steps[i / kBlock, g, i % kBlock], all centroids of
// group g but its own are (base[i] + step - drift_above[g]) / per_step from row i, at least.
struct LowerBounds {
  uint8_t* steps;  // (n / kBlock rounded up, groups, kBlock), or null
  float* base;     // (n rounded up to blocks), in steps
  int64_t groups, together;
  const int32_t* group_of;     // (places)
  float per_step;              // 1 / the length of a step
  const uint8_t* drift_above;  // (groups), in steps, rounded up: at most kMostSteps
  const float* drift_below;    // (groups), in steps, rounded down
  const float (*terms)[4];     // (places): of units, offsets and drift_below; 0
  const uint8_t* rebase;       // (groups): steps to take off all bounds first; or null
  bool valid;                  // steps and base hold bounds
};

// Distances between centroids, as far as rounding allows; each may be null.
struct Gaps {
  const float* nearest;     // (places): (½ d(c, c'))² of the nearest other centroid
  const float* pairwise;    // (k, places): (½ d(c, c'))²
  const float* of_sixteen;  // (k, blocks): the least of sixteen of pairwise
  int64_t blocks;           // places / 16 filled up to a multiple of 16, by infinity
};

// Upper bounds on the distance of each row to its centroid as of the last call, and how far, at
// most, the centroids have moved since.
struct UpperBounds {
  float* reach;           // (n), or null
  const float* drift;     // (places)
  float pairs_before;     // of the last call: pairs measured of each row
  float compared_before;  // of the last call: the share of rows measured against other centroids
  bool valid;             // they are there, and rows whose label they prove need not be measured
};

template <typename T>
struct Search {
  Places<T> places;
  Coordinates coordinates;
  RowCoordinates rows;
  LowerBounds bounds;
  Gaps gaps;
  UpperBounds upper;
  int32_t* labels;  // (n): of the last call; or null
};

// A row whose label has changed.
struct Move {
  int64_t row;
  int32_t from, to;
};

// Rows of a block, a bit each, that may be near a group.
struct NearGroup {
  uint64_t rows;
  int64_t group;
};

// Memory for one thread, aligned to 64 bytes.
template <typename T>
struct Scratch {
  T* rows;               // (kBlock, stride)
  int32_t* coordinates;  // (kBlock, pitch)
  float* centered;       // (kBlock, stride)
  float* along;          // (kMostRowsTogether, directions + 1)
  int32_t* columns;      // (pitch, kMostRowsInLanes)
  float* scores;         // (kMostPlaces or, if less, places; kMostRowsInLanes)
  NearGroup* near;       // (groups + 1)
  Move* moves;           // (rows of the thread), or null
};

// What a search has seen.
struct Seen {
  int64_t pairs;     // of a row and a centroid that were measured
  int64_t plain;     // rows whose centroid gaps proved to stay the nearest
  int64_t compared;  // rows that were measured against others than their centroid
  int64_t moves;     // that were written down
};

}  // namespace km
