// A tree of boxes over rows of few features (the filtering algorithm of Kanungo et al., "An
// efficient k-means clustering algorithm", TPAMI 2002, with eight children where their kd-tree has
// two). Rows are sorted so that neighbors in space are neighbors in memory. A leaf holds as many
// rows as a block of block-inl.h; a node above holds kFan nodes of the level below. The box of a
// node is the smallest box with sides parallel to the axes that contains its rows.
//
// Levels, drawn for 11 leaves and at most one uppermost node, and the numbers of all nodes, which
// index every array (nodes, ..) below:
//
//   level 2   |                   13                   |    begin[2] = 13, nodes[2] = 1
//   level 1   |             11             |    12     |    begin[1] = 11, nodes[1] = 2
//   level 0   | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 |10|  begin[0] = 0,  nodes[0] = 11: leaves
//
// Rows in memory, drawn for leaves of four rows a, b, c, d with features 0 and 1:
//
//   features  | a0 b0 c0 d0 a1 b1 c1 d1 | e0 f0 g0 h0 e1 f1 g1 h1 | ..   (leaves, d, leaf)
//   weights   | wa wb wc wd             | we wf wg wh             | ..   (leaves, leaf)
//                leaf 0                    leaf 1
#pragma once

#include <cstdint>

namespace km {

// Children of a node. With eight, a box has an eighth of its parent's rows, as after three of the
// binary cuts of the paper, and the tree a third of the levels.
constexpr int64_t kFan = 8;
// The uppermost level has at most so many nodes, which the threads take by turns: enough for many
// threads, and few enough that every centroid may be tried for each.
constexpr int64_t kMostTopNodes = 512;
// Levels of 2^32 rows in leaves of 8 are 8: log8(2^29 / kMostTopNodes) + 1, rounded up.
constexpr int kMostLevels = 16;
// Candidates of seeding that are tested together: a bit each of a 32-bit word.
constexpr int kCandidates = 32;
// Numbers of rows and centroids that a tree accepts are at most so large in size, so that no sum of
// squares overflows.
template <typename T>
constexpr T kMostOfTree = sizeof(T) == 4 ? T(1e15) : T(1e140);
// A coordinate farther from every row than any centroid, whose square is finite: it stands where a
// list of centroids or candidates is filled up to whole vectors.
template <typename T>
constexpr T kFarAway = sizeof(T) == 4 ? T(1e17) : T(1e150);

// Made by BoxTree<T>::lay_out_levels.
struct BoxLevels {
  int count;                   // levels: 1 to kMostLevels
  int64_t nodes[kMostLevels];  // (count): nodes of each level; of the uppermost to kMostTopNodes
  int64_t begin[kMostLevels];  // (count): number of the first node of each level
};

// (static: no linker may take the copy of one instruction set for all.)
static inline int64_t nodes_of(const BoxLevels& levels) {
  return levels.begin[levels.count - 1] + levels.nodes[levels.count - 1];
}

// One past the last child of a node, both counted from the first node of their level: children of
// node i of a level are nodes kFan i to end_of_children - 1 of the level below.
static inline int64_t end_of_children(const BoxLevels& levels, int level, int64_t node) {
  const int64_t end = (node + 1) * kFan, nodes_below = levels.nodes[level - 1];
  return end < nodes_below ? end : nodes_below;
}

// The rows in the order of the leaves. Arrays made by BoxTree<T>::take_memory, filled by CellSort
// and BoxMaker.
template <typename T>
struct LeafRows {
  int64_t n;         // rows: 1 to 2^32 - 1
  int64_t d;         // features: 1 to kSortedFeatures
  int64_t leaf;      // rows of a leaf: as many as Lanes<T>::kRows of the chosen instruction set
  T* features;       // (leaves, d, leaf): the last leaf is filled up by copies of its last row
  double* weights;   // (leaves, leaf): 0 beyond the last row; or null where every weight is 1
  uint32_t* number;  // (n): 0 to n - 1, which of the caller's rows stands at a position
};

// The boxes. Made by BoxMaker.
template <typename T>
struct BoxSides {
  T* middle;  // (nodes, d)
  T* half;    // (nodes, d): half of each side, rounded up so that the box contains its rows
};

// What the E-step keeps of a tree from call to call; null above kFewFeatures. Arrays made by
// BoxTree<T>::take_memory; moments and cancels filled by BoxMaker, labels by
// BoxTree<T>::take_labels.
struct BoxLabels {
  double* moments;   // (nodes, 2 + d), m the middle: Σ w, Σ w ‖x - m‖², Σ w (x - m)
  int32_t* of_row;   // (n), by position: label as of the last call, or -1 where there was none
  int32_t* of_node;  // (nodes): label of all rows of a node, or -1 where they differ
  uint8_t* cancels;  // (nodes): 1 where sums from moments would lose digits; null: nowhere, as
                     // every weight is 1
};

// What seeding keeps of a tree while centers are drawn; null outside of seeding. Made by
// BoxTree<T>::read_nearest.
template <typename T>
struct BoxPotentials {
  T* nearest;         // (leaves, leaf): squared distances to the nearest center so far
  T* farthest;        // (nodes): the largest of nearest over the rows of a node
  double* potential;  // (nodes): Σ w nearest over the rows of a node
};

template <typename T>
struct Boxes {
  BoxLevels levels;
  LeafRows<T> rows;
  BoxSides<T> sides;
  BoxLabels labels;
  BoxPotentials<T> seeding;
};

// The candidates of a box (Kanungo's Z): centroids that may be the nearest to one of its rows.
template <typename T>
struct Candidates {
  int32_t* label;  // (count): which centroids, in ascending order, so that ties go to the lowest
  T* features;     // (d, room): their features; up to a whole vector kFarAway follows
  int64_t count;   // 1 to k
};

// Memory of one thread for candidates: one list for each level of the tree, since a node's list
// has to stay while its children are visited. Made by CandidateMemory.
template <typename T>
struct CandidateLists {
  int64_t room;       // numbers of a list in each feature: k, filled up to whole vectors
  Candidates<T> all;  // every centroid, shared by all threads: the list of the uppermost nodes
  int32_t* labels;    // (levels, room)
  T* features;        // (levels, d, room)
  T* squares;         // (room): squared distances of candidates to the middle of one box
};

}  // namespace km
