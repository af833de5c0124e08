// Memory for the candidates of boxes (Kanungo et al.) while centroids descend a tree, for each
// part of the uppermost nodes.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "host/memory.h"
#include "kernel/few/boxes.h"

namespace km {

// Makes CandidateLists: the list of all centroids once, read by every part, and lists for each
// level of the tree and each part. A list has room for k candidates and what fills up a whole
// vector after them: at most kLanes numbers of any instruction set.
template <typename T>
class CandidateMemory {
 public:
  // centroids: (k, d), which BoxTree<T>::measures says yes to.
  CandidateMemory(const Boxes<T>& tree, const T* centroids, int64_t k, int64_t parts)
      : room_(filled(k) + kLanes),
        d_(tree.rows.d),
        every_label_(aligned<int32_t>(size_t(room_))),
        every_feature_(aligned<T>(size_t(room_ * d_))) {
    // Centroids as columns (d, room): a vector holds one feature of several centroids.
    std::iota(every_label_.get(), every_label_.get() + room_, 0);
    std::fill_n(every_feature_.get(), room_ * d_, kFarAway<T>);
    for (int64_t c = 0; c < k; ++c)
      for (int64_t j = 0; j < d_; ++j) every_feature_[j * room_ + c] = centroids[c * d_ + j];
    const int64_t in_lists = tree.levels.count * room_;
    labels_ = for_each_part<int32_t>(parts, size_t(in_lists));
    features_ = for_each_part<T>(parts, size_t(in_lists * d_));
    squares_ = for_each_part<T>(parts, size_t(room_));
    for (int64_t p = 0; p < parts; ++p)
      lists_.push_back({room_,
                        {every_label_.get(), every_feature_.get(), k},
                        labels_[p].get(),
                        features_[p].get(),
                        squares_[p].get()});
  }
  const CandidateLists<T>& of_part(int64_t part) const { return lists_[size_t(part)]; }

 private:
  const int64_t room_, d_;
  const Array<int32_t> every_label_;      // (room): 0, 1, ..
  const Array<T> every_feature_;          // (d, room)
  std::vector<Array<int32_t>> labels_;    // (parts) of (levels, room)
  std::vector<Array<T>> features_;        // (parts) of (levels, d, room)
  std::vector<Array<T>> squares_;         // (parts) of (room)
  std::vector<CandidateLists<T>> lists_;  // (parts)
};

}  // namespace km
