// The rows of one block: where they are, their coordinates and norms.
//
// Bounds prove most labels, so that rows are read late and few of them at a time: a row that no
// distance is computed for is not read (tests fill such rows with NaN).
#pragma once

#include "kernel/many/coordinates-inl.h"

namespace km::KM_TARGET {
namespace {

// At most kBlock rows that are searched together. A set of rows is a uint64_t, a bit each. The
// constructor is the maker; read and find_coordinates_along_directions fill in rows and coordinates
// once a search needs them.
template <typename T>
struct BlockRows {
  // Rows begin to begin + size of x, 1 <= size <= kBlock; reads nothing yet.
  BlockRows(const km_rows& x, const Search<T>& s, int64_t begin, int size, const Scratch<T>& memory)
      : search(s), count(size), first(begin), all_(x), scratch_(memory) {
    coordinates =
        s.rows.coordinates ? s.rows.coordinates + first * s.coordinates.pitch : memory.coordinates;
    for (int i = 0; i < kBlock; i += kLanes) {  // rows that are missing in a last block
      store(norm + i, broadcast(0.0f));
      store(unit + i, broadcast(0.0f));
    }
  }

  // The set of all rows.
  uint64_t every() const { return ~uint64_t{0} >> (kBlock - count); }

  // Makes `row` valid for a set of rows: points into x if x can be used as it stands, else
  // copies the rows that are not copied yet (converted, padded by zeros, for cosine normalized).
  void read(uint64_t wanted) {
    if (can_be_read_in_place(all_, search.places.stride)) {
      pitch_ = all_.row_stride;
      rows_ = row_at<T>(all_, first);
      return;
    }
    T* const copies = scratch_.rows;
    pitch_ = search.places.stride;
    rows_ = copies;
    wanted &= ~copied_;
    copied_ |= wanted;
    for (int i = 0; i < count; ++i) {  // runs of rows, one call each
      const int begin = i;
      while (i < count && wanted >> i & 1) ++i;
      if (i > begin) load_rows(all_, first + begin, i - begin, pitch_, copies + begin * pitch_);
    }
  }

  // Asks the cache for row i, which a later call will read.
  void prefetch(int i) const { fetch_row(all_, first + i); }

  // Makes `norm`, `unit` and `coordinates` valid along directions: from the coordinates that are
  // kept, or else measured from all rows, which are read, and kept where there is memory. Without
  // directions, tiles make coordinates of their rows themselves (tile_coordinates-inl.h), since
  // only tiles use them.
  void find_coordinates_along_directions() {
    const Coordinates& c = search.coordinates;
    if (!c.directions) return;
    const size_t bytes = size_t(count) * sizeof(float);
    if (search.rows.measured) {
      std::memcpy(norm, search.rows.norms + first, bytes);
    } else {
      read(every());
      measure_rows(
          c, [this](int i) { return row(i); }, search.places.d, search.places.stride, count,
          scratch_.centered, scratch_.along, coordinates, norm);
      if (search.rows.norms) std::memcpy(search.rows.norms + first, norm, bytes);
    }
    for (int i = 0; i < kBlock; i += kLanes) store(unit + i, unit_of(load(norm + i)));
  }

  // Row i (stride); only after read.
  const T* row(int i) const { return rows_ + i * pitch_; }
  // Coordinates of row i (pitch); only after find_coordinates_along_directions.
  const int32_t* coordinates_of(int i) const { return coordinates + i * search.coordinates.pitch; }

  const Search<T>& search;
  const int count;       // rows of the block, 1 to kBlock
  const int64_t first;   // number of the first row, a multiple of kBlock
  int32_t* coordinates;  // (count, pitch)
  float norm[kBlock];    // ‖x‖² about the origin; 0 until measured
  float unit[kBlock];    // of the coordinates, ‖x‖ / kWhole

 private:
  const km_rows& all_;
  const Scratch<T>& scratch_;
  const T* rows_ = nullptr;  // (count, pitch_)
  int64_t pitch_ = 0;        // numbers from one row to the next
  uint64_t copied_ = 0;      // rows whose copies are in scratch
};

}  // namespace
}  // namespace km::KM_TARGET
