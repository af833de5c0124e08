// An order of rows in which neighbors are near each other, by counting sorts of cells.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <new>
#include <vector>

#include "host/dispatch.h"
#include "host/memory.h"
#include "host/split.h"
#include "kernel/few/boxes.h"

namespace km {

template <typename T, int D>
struct Box {
  T low[D], high[D];

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
  void add(const Box& other) {
    add(other.low);
    add(other.high);
  }
};

// A box cut in halves, across its longest side, so many times. Cells are numbered as in a grid;
// visited in turn, those on one side of an earlier cut come before those on the other.
template <typename T, int D>
class Cells {
 public:
  static constexpr int kMost = 256;
  static constexpr T kLeastSide = T(1e6) * std::numeric_limits<T>::min();

  Cells(const Box<T, D>& box, int64_t at_least) {
    int axis[8], cuts[D] = {}, bits = 0;
    T side[D];
    for (int j = 0; j < D; ++j) side[j] = box.high[j] - box.low[j];
    while (count < kMost && count < at_least) {
      const int longest = static_cast<int>(std::max_element(side, side + D) - side);
      if (!(side[longest] > kLeastSide)) break;
      side[longest] /= 2;
      ++cuts[longest];
      axis[bits++] = longest;
      count *= 2;
    }
    int step = 1, bit[8], left[D];
    for (int j = 0; j < D; ++j) {
      low_[j] = box.low[j];
      last_[j] = (1 << cuts[j]) - 1;
      scale_[j] = cuts[j] ? T(1 << cuts[j]) / (box.high[j] - box.low[j]) : T(0);
      step_[j] = step;
      step <<= cuts[j];
      left[j] = cuts[j];
    }
    for (int b = 0; b < bits; ++b) bit[b] = step_[axis[b]] << --left[axis[b]];
    in_turn_[0] = 0;
    for (int b = bits, known = 1; b-- > 0; known *= 2)
      for (int i = 0; i < known; ++i)
        in_turn_[known + i] = static_cast<uint8_t>(in_turn_[i] + bit[b]);
  }

  // The cells of rows (some, D).
  void find(const T* rows, int64_t some, uint8_t* cells) const {
    T low[D], scale[D];
    int last[D], step[D];  // bytes may be the same memory as members, not as these
    std::copy_n(low_, D, low);
    std::copy_n(scale_, D, scale);
    std::copy_n(last_, D, last);
    std::copy_n(step_, D, step);
    for (int64_t i = 0; i < some; ++i, rows += D) {
      int cell = 0;
      for (int j = 0; j < D; ++j) {
        const int place = static_cast<int>((rows[j] - low[j]) * scale[j]);
        cell += (place < last[j] ? place : last[j]) * step[j];
      }
      cells[i] = static_cast<uint8_t>(cell);
    }
  }
  int in_turn(int i) const { return in_turn_[i]; }

  int count = 1;

 private:
  T low_[D], scale_[D];
  int last_[D], step_[D];
  uint8_t in_turn_[kMost];
};

// Rows with their numbers, in an order in which neighbors are near each other: those of a cell
// follow each other, and within it those of its cells, down to as many rows as fill a leaf.
template <typename T, int D>
class Sorted {
 public:
  Sorted(const km_rows& rows, int64_t leaf, int threads, T* sorted, uint32_t* number)
      : leaf_(leaf), sorted_(sorted), number_(number) {
    const int64_t parts = n_parts(rows, Cells<T, D>::kMost, threads);
    std::vector<Box<T, D>> boxes(parts);
    std::vector<char> good(parts, true);
    in_parallel(parts, [&](int64_t p) {
      Box<T, D> box;
      bool all = true;
      for_each(rows, begin_of(rows, parts, p), begin_of(rows, parts, p + 1),
               [&](int64_t, const T* row) {
                 box.add(row);
                 for (int j = 0; j < D; ++j) all &= std::abs(row[j]) <= kMostOfTree<T>;
               });
      boxes[p] = box;
      good[p] = all;
    });
    for (char all : good) good_ &= all != 0;
    if (!good_) return;
    for (const Box<T, D>& other : boxes) boxes[0].add(other);
    const Cells<T, D> cells(boxes[0], rows.n / leaf);
    const auto cell = aligned<uint8_t>(size_t(rows.n));
    std::vector<int64_t> places(parts * cells.count);
    in_parallel(parts, [&](int64_t p) {
      int64_t count[Cells<T, D>::kMost] = {};
      T copies[kAtOnce * D];
      const int64_t end = begin_of(rows, parts, p + 1);
      for (int64_t i = begin_of(rows, parts, p); i < end; i += kAtOnce) {
        const int64_t some = std::min(kAtOnce, end - i);
        current_kernel<T>().copy_rows(rows, i, some, D, copies);
        cells.find(copies, some, cell.get() + i);
        for (int64_t s = 0; s < some; ++s) ++count[cell[i + s]];
      }
      for (int c = 0; c < cells.count; ++c) places[c * parts + p] = count[cells.in_turn(c)];
    });
    int64_t place = 0;
    for (int64_t& next : places) {
      const int64_t count = next;
      next = place;
      place += count;
    }
    std::vector<int64_t> begin;
    for (int c = 0; c < cells.count; ++c) begin.push_back(places[c * parts]);
    begin.push_back(rows.n);
    in_parallel(parts, [&](int64_t p) {
      int64_t next[Cells<T, D>::kMost];
      for (int c = 0; c < cells.count; ++c) next[cells.in_turn(c)] = places[c * parts + p];
      for_each(rows, begin_of(rows, parts, p), begin_of(rows, parts, p + 1),
               [&](int64_t i, const T* row) {
                 const int64_t to = next[cell[i]]++;
                 std::copy_n(row, D, sorted_ + to * D);
                 number_[to] = static_cast<uint32_t>(i);
               });
    });
    if (cells.count == 1) return;
    std::atomic<int> taken{0};
    std::atomic<bool> failed{false};
    in_parallel(parts, [&](int64_t) {
      try {  // no thread may end by an exception
        Scratch scratch;
        for (int c = taken++; c < cells.count; c = taken++)
          sort(begin[c], begin[c + 1], scratch, 0);
      } catch (const std::bad_alloc&) {
        failed = true;
      }
    });
    if (failed) throw std::bad_alloc();
  }

  bool good() const { return good_; }

 private:
  static constexpr int kDeepest = 64;
  static constexpr int64_t kAtOnce = 256;

  struct Scratch {
    std::vector<uint8_t> cell;
    std::vector<T> rows;
    std::vector<uint32_t> number;
  };

  // Calls work(i, row) for rows begin to end.
  template <typename Work>
  static void for_each(const km_rows& rows, int64_t begin, int64_t end, const Work& work) {
    T copies[kAtOnce * D];
    for (int64_t i = begin; i < end; i += kAtOnce) {
      const int64_t some = std::min(kAtOnce, end - i);
      current_kernel<T>().copy_rows(rows, i, some, D, copies);
      for (int64_t s = 0; s < some; ++s) work(i + s, copies + s * D);
    }
  }

  void sort(int64_t begin, int64_t end, Scratch& scratch, int depth) {
    const int64_t count = end - begin;
    if (count <= 2 * leaf_ || depth == kDeepest) return;
    Box<T, D> box;
    for (int64_t i = begin; i < end; ++i) box.add(sorted_ + i * D);
    const Cells<T, D> cells(box, (count + leaf_ - 1) / leaf_);
    if (cells.count == 1) return;
    if (int64_t(scratch.cell.size()) < count) {
      scratch.cell.resize(count);
      scratch.rows.resize(count * D);
      scratch.number.resize(count);
    }
    uint8_t* const cell = scratch.cell.data();
    int64_t first[Cells<T, D>::kMost + 1], next[Cells<T, D>::kMost];
    std::fill_n(next, cells.count, 0);
    cells.find(sorted_ + begin * D, count, cell);
    for (int64_t i = 0; i < count; ++i) ++next[cell[i]];
    first[0] = 0;
    for (int c = 0; c < cells.count; ++c) {
      int64_t& of_cell = next[cells.in_turn(c)];
      first[c + 1] = first[c] + of_cell;
      of_cell = first[c];
    }
    for (int64_t i = 0; i < count; ++i) {
      const int64_t to = next[cell[i]]++;
      std::copy_n(sorted_ + (begin + i) * D, D, scratch.rows.data() + to * D);
      scratch.number[to] = number_[begin + i];
    }
    std::copy_n(scratch.rows.data(), count * D, sorted_ + begin * D);
    std::copy_n(scratch.number.data(), count, number_ + begin);
    for (int c = 0; c < cells.count; ++c)
      sort(begin + first[c], begin + first[c + 1], scratch, depth + 1);
  }

  const int64_t leaf_;
  T* const sorted_;
  uint32_t* const number_;
  bool good_ = true;
};

}  // namespace km
