// An order of rows in which neighbors in space are neighbors in memory, by counting sorts of cells.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <new>
#include <vector>

#include "host/cells.h"
#include "host/dispatch.h"
#include "host/memory.h"
#include "host/split.h"
#include "kernel/few/boxes.h"

namespace km {

// Sorts all rows by the cells of their box, in the turn of the cells; then the rows of each cell by
// the cells of that cell's rows, and so on, until a cell has few enough rows for two leaves. The
// first sort reads the caller's rows, in parts; later sorts are of few rows each, and threads
// take the cells of the first by turns. The order does not depend on how many threads there are.
template <typename T, int D>
class CellSort {
 public:
  CellSort(const km_rows& rows,  // (n, D), of whatever element type and strides
           int64_t leaf,         // rows of a leaf
           int threads,          //
           T* sorted,            // (n, D), written: the rows in their order
           uint32_t* number)     // (n), written: which row stands at a position
      : rows_(rows),
        leaf_(leaf),
        parts_(n_parts(rows, Cells<T, D>::kMost, threads)),
        sorted_(sorted),
        number_(number) {}

  // Returns false, and sorts nothing, where a number is not finite or above kMostOfTree in size.
  bool run() {
    Box<T, D> box;
    if (!measure(box)) return false;
    const Cells<T, D> cells(box, rows_.n / leaf_);
    const std::vector<int64_t> begin = sort_all(cells);
    if (cells.count() > 1) sort_each(begin);
    return true;
  }

 private:
  // Rows that crowd ever closer around one point need a sort of a cell in a cell for each scale.
  // After so many, of at most 8 cuts each, the rows of a cell stay in the order they have: boxes of
  // leaves may overlap then, which prunes less and changes no result.
  static constexpr int kDeepest = 64;
  static constexpr int64_t kAtOnce = 256;  // rows that are converted at once: they stay in a cache
  static constexpr int kMostCells = Cells<T, D>::kMost;

  // Calls work(i, rows, count) for rows i to i + count - 1 of a part, kAtOnce or fewer at a time,
  // converted to T and copied to rows (count, D).
  template <typename Work>
  void for_rows_of(int64_t part, const Work& work) const {
    T copies[kAtOnce * D];
    const int64_t end = begin_of(rows_, parts_, part + 1);
    for (int64_t i = begin_of(rows_, parts_, part); i < end; i += kAtOnce) {
      const int64_t count = std::min(kAtOnce, end - i);
      current_kernel<T>().copy_rows(rows_, i, count, D, copies);
      work(i, copies, count);
    }
  }

  // The box of all rows; false where a number is not finite or too large.
  bool measure(Box<T, D>& box) const {
    std::vector<Box<T, D>> boxes(static_cast<size_t>(parts_));
    // Not bool, which has eight elements to a byte: threads write at the same time.
    std::vector<char> within(static_cast<size_t>(parts_), true);
    in_parallel(parts_, [&](int64_t p) {
      Box<T, D> of_part;
      bool all_within = true;
      for_rows_of(p, [&](int64_t, const T* row, int64_t count) {
        for (const T* const end = row + count * D; row < end; row += D) {
          of_part.add(row);
          for (int j = 0; j < D; ++j) all_within &= std::abs(row[j]) <= kMostOfTree<T>;
        }
      });
      boxes[p] = of_part;
      within[p] = all_within;
    });
    for (const Box<T, D>& of_part : boxes) box.add(of_part);
    return std::all_of(within.begin(), within.end(), [](char of_part) { return of_part; });
  }

  // A counting sort of all rows: parts count their rows of each cell; running sums over cells, and
  // over parts within a cell, say where each part's rows of each cell go; parts copy their rows
  // there. Rows of a cell stay in the caller's order. Returns where the rows of each cell begin, in
  // the turn of the cells, and after them n.
  std::vector<int64_t> sort_all(const Cells<T, D>& cells) {
    const auto cell = aligned<uint8_t>(size_t(rows_.n));  // (n): by place
    std::vector<int64_t> place = count_cells(cells, cell.get());
    int64_t next = 0;
    for (int64_t& of_cell : place) {  // counts become where the rows begin
      const int64_t count = of_cell;
      of_cell = next;
      next += count;
    }
    in_parallel(parts_, [&](int64_t p) {
      int64_t to[kMostCells];
      for (int turn = 0; turn < cells.count(); ++turn)
        to[cells.in_turn(turn)] = place[turn * parts_ + p];
      for_rows_of(p, [&](int64_t i, const T* rows, int64_t count) {
        for (int64_t s = 0; s < count; ++s) {
          const int64_t position = to[cell[i + s]]++;
          std::copy_n(rows + s * D, D, sorted_ + position * D);
          number_[position] = static_cast<uint32_t>(i + s);
        }
      });
    });
    std::vector<int64_t> begin;
    for (int turn = 0; turn < cells.count(); ++turn) begin.push_back(place[turn * parts_]);
    begin.push_back(rows_.n);
    return begin;
  }

  // Writes the cell of each row (n), by place; returns how many rows of each part are in each cell:
  // (cells in their turn, parts).
  std::vector<int64_t> count_cells(const Cells<T, D>& cells, uint8_t* cell) const {
    std::vector<int64_t> counts(static_cast<size_t>(parts_ * cells.count()));
    in_parallel(parts_, [&](int64_t p) {
      int64_t of_cell[kMostCells] = {};
      for_rows_of(p, [&](int64_t i, const T* rows, int64_t count) {
        cells.find(rows, count, cell + i);
        for (int64_t s = 0; s < count; ++s) ++of_cell[cell[i + s]];
      });
      for (int turn = 0; turn < cells.count(); ++turn)
        counts[turn * parts_ + p] = of_cell[cells.in_turn(turn)];
    });
    return counts;
  }

  // Memory of a thread for the largest cell so far.
  struct Scratch {
    std::vector<uint8_t> cell;     // (rows)
    std::vector<T> rows;           // (rows, D)
    std::vector<uint32_t> number;  // (rows)

    void hold(int64_t count) {
      if (int64_t(cell.size()) >= count) return;
      cell.resize(count);
      rows.resize(count * D);
      number.resize(count);
    }
  };

  // Sorts the rows of each cell, which begin at begin (cells + 1). Cells differ in how many rows
  // they have, so a thread takes the next one whenever it has finished one.
  void sort_each(const std::vector<int64_t>& begin) {
    const int count = static_cast<int>(begin.size()) - 1;
    std::atomic<int> next_cell{0};
    std::atomic<bool> failed{false};
    in_parallel(parts_, [&](int64_t) {
      try {  // no thread may end by an exception
        Scratch scratch;
        for (int c = next_cell++; c < count; c = next_cell++)
          sort(begin[c], begin[c + 1], scratch, 0);
      } catch (const std::bad_alloc&) {
        failed = true;
      }
    });
    if (failed) throw std::bad_alloc();
  }

  // Sorts the rows of one cell, at positions begin to end - 1, by the cells of their own box, which
  // is smaller than the cell where rows are clustered; then the rows of each of these. depth: 0 to
  // kDeepest, how many sorts of cells came before.
  void sort(int64_t begin, int64_t end, Scratch& scratch, int depth) {
    const int64_t count = end - begin;
    if (count <= 2 * leaf_ || depth == kDeepest) return;
    Box<T, D> box;
    for (int64_t i = begin; i < end; ++i) box.add(sorted_ + i * D);
    const Cells<T, D> cells(box, (count + leaf_ - 1) / leaf_);
    if (cells.count() == 1) return;
    scratch.hold(count);
    uint8_t* const cell = scratch.cell.data();
    int64_t first[kMostCells + 1];  // in turn: where the rows of a cell begin, relative to begin
    int64_t next[kMostCells];  // by place: how many rows a cell has, then where the next one goes
    std::fill_n(next, cells.count(), 0);
    cells.find(sorted_ + begin * D, count, cell);
    for (int64_t i = 0; i < count; ++i) ++next[cell[i]];
    first[0] = 0;
    for (int turn = 0; turn < cells.count(); ++turn) {
      int64_t& of_cell = next[cells.in_turn(turn)];
      first[turn + 1] = first[turn] + of_cell;
      of_cell = first[turn];
    }
    for (int64_t i = 0; i < count; ++i) {
      const int64_t to = next[cell[i]]++;
      std::copy_n(sorted_ + (begin + i) * D, D, scratch.rows.data() + to * D);
      scratch.number[to] = number_[begin + i];
    }
    std::copy_n(scratch.rows.data(), count * D, sorted_ + begin * D);
    std::copy_n(scratch.number.data(), count, number_ + begin);
    for (int turn = 0; turn < cells.count(); ++turn)
      sort(begin + first[turn], begin + first[turn + 1], scratch, depth + 1);
  }

  const km_rows& rows_;
  const int64_t leaf_;
  const int64_t parts_;  // of the caller's rows
  T* const sorted_;
  uint32_t* const number_;
};

}  // namespace km
