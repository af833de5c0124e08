// Memory of the threads of a search.
#pragma once

#include <algorithm>
#include <vector>

#include "host/memory.h"
#include "kernel/many/search.h"

namespace km {

// Makes Scratch<T>, one for each part of the rows. Each array is typed memory of its own, in cache
// lines that no other part writes. (One arena would save some allocations of each call, and cost
// casts, and padding between parts that write at the same time.)
template <typename T>
class SearchScratch {
 public:
  // For so many parts of a search, each of which may write down so many moves; 0: it writes none.
  SearchScratch(const Search<T>& s, int64_t parts, int64_t moves = 0)
      : rows_(for_each_part<T>(parts, kBlock * size_t(s.places.stride))),
        coordinates_(for_each_part<int32_t>(parts, kBlock * size_t(s.coordinates.pitch))),
        centered_(for_each_part<float>(parts, kBlock * size_t(s.places.stride))),
        along_(
            for_each_part<float>(parts, kMostRowsTogether * size_t(s.coordinates.directions + 1))),
        columns_(for_each_part<int32_t>(parts, size_t(s.coordinates.pitch) * kMostRowsInLanes)),
        scores_(for_each_part<float>(
            parts, size_t(std::min(kMostPlaces, s.places.count)) * kMostRowsInLanes)),
        groups_(for_each_part<CandidateGroup>(parts, size_t(s.bounds.groups) + 1)),
        moves_(for_each_part<Move>(moves ? parts : 0, size_t(moves))) {}

  // Of one part; valid as long as this object is.
  Scratch<T> of_part(int64_t part) const {
    const size_t p = size_t(part);
    Scratch<T> scratch = {};
    scratch.rows = rows_[p].get();
    scratch.coordinates = coordinates_[p].get();
    scratch.centered = centered_[p].get();
    scratch.along = along_[p].get();
    scratch.columns = columns_[p].get();
    scratch.scores = scores_[p].get();
    scratch.groups = groups_[p].get();
    scratch.moves = moves_.empty() ? nullptr : moves_[p].get();
    return scratch;
  }

 private:
  // By part; see Scratch for what is in each.
  std::vector<Array<T>> rows_;
  std::vector<Array<int32_t>> coordinates_;
  std::vector<Array<float>> centered_;
  std::vector<Array<float>> along_;
  std::vector<Array<int32_t>> columns_;
  std::vector<Array<float>> scores_;
  std::vector<Array<CandidateGroup>> groups_;
  std::vector<Array<Move>> moves_;
};

}  // namespace km
