// Rows of few features, sorted so that neighbors are near each other: leaves hold rows, and nodes
// kFan leaves, or nodes, that follow each other. Level 0 are the leaves. Each is in a box.
#pragma once

#include <cstdint>

namespace km {

constexpr int64_t kFan = 8;
constexpr int64_t kMostTopNodes = 512;
constexpr int kMostLevels = 16;
constexpr int kCandidates = 32;  // of seeding, at once
// What numbers of rows and centroids do not exceed, and where there is nothing.
template <typename T>
constexpr T kMostOfTree = sizeof(T) == 4 ? T(1e15) : T(1e140);
template <typename T>
constexpr T kFarAway = sizeof(T) == 4 ? T(1e17) : T(1e150);

template <typename T>
struct Boxes {
  int64_t n, d, leaf;  // leaf: rows of each; the last one repeats its last row
  int levels;
  int64_t nodes[kMostLevels];  // of each level; of the uppermost at most kMostTopNodes
  int64_t begin[kMostLevels];  // number of the first of them
  T* rows;                     // (leaves, d, leaf)
  double* weights;             // (leaves, leaf), 0 where there is no row; or null for weight 1
  uint32_t* number;            // (n): which row
  T* middle;                   // (nodes, d)
  T* half;                     // (nodes, d): how far the box reaches to either side
  // For the E-step, up to kFewFeatures, or null.
  double* moments;  // (nodes, 2 + d): weight; squared distances to the middle, and
                    // differences from it, added up by weight
  int32_t* label;   // (n): as of the last call, or -1
  int32_t* owner;   // (nodes): label of all rows, or -1
  // For seeding, or null.
  T* near;            // (leaves, leaf): squared distances to the nearest center
  T* farthest;        // (nodes): the largest of them
  double* potential;  // (nodes): added up by weight
};

// Centroids that may be near, one list for each level, and memory for a number of each centroid.
// Features are (d, room); room is k filled up.
template <typename T>
struct CandidateLists {
  int64_t k, room;
  int32_t* all_index;  // (room): 0 to k - 1
  T* all;              // features of all centroids, others far away
  int32_t* index;      // (levels, room)
  T* features;         // (levels, d, room)
  T* squares;          // (room)
};

}  // namespace km
