#include "host/row_coordinates.h"

namespace km {

// Makes room for so many pairs and rows, unless it is there: new memory holds nothing.
bool KeptCoordinates::reserve(int64_t pairs, int64_t rows) {
  if (!pairs_ || pairs != n_pairs_ || rows != n_rows_) {
    release();
    pairs_ = aligned<int32_t>(size_t(pairs));
    norms_ = aligned<float>(size_t(rows));
    n_pairs_ = pairs;
    n_rows_ = rows;
  }
  return measured_;
}

// Pairs up to pitch, so that the kernel loads sixteen of them at once.
RowCoordinates KeptCoordinates::by_row(int64_t n, const Coordinates& axes) {
  RowCoordinates kept = {};
  kept.measured = reserve(n * axes.pitch, n);
  kept.coordinates = pairs_.get();
  kept.norms = norms_.get();
  return kept;
}

// Whole blocks of rows, since the last tile is written in full.
RowCoordinates KeptCoordinates::by_tile(int64_t n, const Coordinates& axes) {
  const int64_t rows = (n + kBlock - 1) / kBlock * kBlock;
  RowCoordinates kept = {};
  kept.measured = reserve(rows * axes.width, rows);
  kept.columns = pairs_.get();
  kept.norms = norms_.get();
  return kept;
}

void KeptCoordinates::release() {
  pairs_.reset();
  norms_.reset();
  measured_ = false;
}

}  // namespace km
