// Memory for the coordinates of the rows, which are measured once and read by each later call.
#pragma once

#include <cstdint>

#include "host/memory.h"
#include "kernel/many/search.h"

namespace km {

// Makes RowCoordinates, in one of two layouts. The kernel fills the memory during the first call
// that has it; note_measured() says that it did. Rows never change under a workspace, so that their
// coordinates stay true until the axes change.
class KeptCoordinates {
 public:
  // Row after row, (n, pitch), for an E-step: rows are taken one by one.
  RowCoordinates by_row(int64_t n, const Coordinates& axes);
  // Tile after tile, (n filled up to blocks / lanes, width, lanes), for seeding: all rows of a tile
  // are compared with a few candidates. Pairs that only fill up the width are left out.
  RowCoordinates by_tile(int64_t n, const Coordinates& axes);

  // All rows were measured by the last call.
  void note_measured() { measured_ = true; }
  // The axes have changed: coordinates are void, and the next call measures them anew.
  void forget() { measured_ = false; }
  // Gives the memory back.
  void release();

 private:
  bool reserve(int64_t pairs, int64_t rows);

  Array<int32_t> pairs_;              // in either layout
  Array<float> norms_;                // (n), or filled up to blocks: squared, from the center
  int64_t n_pairs_ = 0, n_rows_ = 0;  // how much memory there is
  bool measured_ = false;
};

}  // namespace km
