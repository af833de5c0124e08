// A box of rows, and a grid of cells in it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

namespace km {

// The smallest box with sides parallel to the axes that contains what was added to it.
template <typename T, int D>
struct Box {
  T low[D], high[D];  // infinite and -infinite while the box is empty

  Box() {
    std::fill_n(low, D, std::numeric_limits<T>::infinity());
    std::fill_n(high, D, -std::numeric_limits<T>::infinity());
  }
  void add(const T* row) {
    for (int j = 0; j < D; ++j) {
      low[j] = row[j] < low[j] ? row[j] : low[j];
      high[j] = row[j] > high[j] ? row[j] : high[j];
    }
  }
  void add(const Box& other) {  // which may be empty: low with low, high with high
    for (int j = 0; j < D; ++j) {
      low[j] = other.low[j] < low[j] ? other.low[j] : low[j];
      high[j] = other.high[j] > high[j] ? other.high[j] : high[j];
    }
  }
};

// The cells of a box that is cut in halves again and again, each time across its longest side, all
// parts alike. Cells have two numbers: one by their place in the grid, which is quick to compute,
// and one by the turn in which a walk visits them that finishes one side of an earlier cut before
// it enters the other, so that cells of near turns are near in space. Drawn for a box cut across
// its width, then its height, then its width again:
//
//   by place   | 4 | 5 | 6 | 7 |        by turn   | 2 | 3 | 6 | 7 |
//              | 0 | 1 | 2 | 3 |                  | 0 | 1 | 4 | 5 |
template <typename T, int D>
class Cells {
 public:
  static constexpr int kMostCuts = 8;
  static constexpr int kMost = 1 << kMostCuts;  // cells: their numbers are bytes
  // A side this short is not cut: scales of cells, 2^cuts / side, would overflow.
  static constexpr T kLeastSide = T(1e6) * std::numeric_limits<T>::min();

  // box: of finite numbers. at_least: cells wanted, which a power of two up to kMost rounds up;
  // there are fewer where no side can be cut any more.
  Cells(const Box<T, D>& box, int64_t at_least) {
    const Cuts cuts = cut(box, at_least);
    for (int j = 0, step = 1; j < D; ++j) {
      low_[j] = box.low[j];
      last_[j] = (1 << cuts.across[j]) - 1;
      scale_[j] = cuts.across[j] ? T(1 << cuts.across[j]) / (box.high[j] - box.low[j]) : T(0);
      step_[j] = step;
      step <<= cuts.across[j];
    }
    take_turns(cuts);
  }

  // Cells by place of rows (count, D) that lie in the box: cells (count). No place is negative,
  // since no row is below low; a place that rounding makes one too large does no harm, since boxes
  // of a tree are made from rows, not from cells.
  void find(const T* rows, int64_t count, uint8_t* cells) const {
    T low[D], scale[D];
    int last[D], step[D];  // stores to bytes may change members, as compilers see it, not these
    std::copy_n(low_, D, low);
    std::copy_n(scale_, D, scale);
    std::copy_n(last_, D, last);
    std::copy_n(step_, D, step);
    for (int64_t i = 0; i < count; ++i, rows += D) {
      int cell = 0;
      for (int j = 0; j < D; ++j) {
        const int place = static_cast<int>((rows[j] - low[j]) * scale[j]);
        cell += (place < last[j] ? place : last[j]) * step[j];  // the last one has the upper side
      }
      cells[i] = static_cast<uint8_t>(cell);
    }
  }

  int count() const { return count_; }
  // The cell by place that is visited in a turn: 0 to count() - 1.
  int in_turn(int turn) const { return in_turn_[turn]; }

 private:
  struct Cuts {
    int count = 0;
    int axis[kMostCuts];  // (count): 0 to D - 1, the side that a cut is across
    int across[D] = {};   // how many cuts are across a side
  };

  // Cuts until there are cells enough, and counts them. Doubling the number of cells by each cut
  // keeps them as close to cubes as a box allows: a leaf of rows then has a small box.
  Cuts cut(const Box<T, D>& box, int64_t at_least) {
    Cuts cuts;
    T side[D];
    for (int j = 0; j < D; ++j) side[j] = box.high[j] - box.low[j];
    while (count_ < kMost && count_ < at_least) {
      const int longest = static_cast<int>(std::max_element(side, side + D) - side);
      if (!(side[longest] > kLeastSide)) break;
      side[longest] /= 2;
      ++cuts.across[longest];
      cuts.axis[cuts.count++] = longest;
      count_ *= 2;
    }
    return cuts;
  }

  // A turn has a bit for each cut, the first cut the highest; a place has a bit for each cut across
  // a side, the first the highest, sides next to each other.
  void take_turns(const Cuts& cuts) {
    int place_bit[kMostCuts], left[D];
    std::copy_n(cuts.across, D, left);
    for (int b = 0; b < cuts.count; ++b) place_bit[b] = step_[cuts.axis[b]] << --left[cuts.axis[b]];
    in_turn_[0] = 0;
    for (int b = cuts.count, known = 1; b-- > 0; known *= 2)
      for (int turn = 0; turn < known; ++turn)
        in_turn_[known + turn] = static_cast<uint8_t>(in_turn_[turn] + place_bit[b]);
  }

  int count_ = 1;           // cells
  T low_[D];                // of the box
  T scale_[D];              // cells per unit of length, 0 across a side without cuts
  int last_[D];             // cells across a side, less one
  int step_[D];             // by how much the place grows from one cell to the next across a side
  uint8_t in_turn_[kMost];  // (count): places
};

}  // namespace km
