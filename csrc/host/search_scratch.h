// Memory of the threads of a search.
#pragma once

#include <memory>
#include <vector>

#include "host/memory.h"
#include "kernel/many/search.h"

namespace km {

// Memory of each part for a search.
template <typename T>
class SearchScratch {
 public:
  SearchScratch(const Search<T>& s, int64_t parts) : of(parts) {
    const size_t numbers = kBlock * size_t(s.places.stride);
    const size_t places = size_t(std::min(kMostPlaces, s.places.count));
    for (Scratch<T>& own : of) {
      own.rows = take<T>(numbers);
      own.coordinates = take<int32_t>(kBlock * size_t(s.coordinates.pitch));
      own.centered = take<float>(numbers);
      own.along = take<float>(kMostRowsTogether * size_t(s.coordinates.directions + 1));
      own.columns = take<int32_t>(size_t(s.coordinates.pitch) * kMostRowsInLanes);
      own.scores = take<float>(places * kMostRowsInLanes);
      own.near = take<NearGroup>(s.bounds.steps ? size_t(s.bounds.groups) + 1 : 0);
      own.moves = nullptr;
    }
  }
  std::vector<Scratch<T>> of;

 private:
  template <typename Number>
  Number* take(size_t count) {
    memory_.push_back(aligned<char>(count * sizeof(Number)));
    return reinterpret_cast<Number*>(memory_.back().get());
  }
  std::vector<std::unique_ptr<char[], Free>> memory_;
};

}  // namespace km
