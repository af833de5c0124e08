"""What the scikit-learn that is installed does otherwise than the one that ours agree with."""

from __future__ import annotations

import sklearn
from sklearn.utils.fixes import parse_version

# Since 1.9 weights count in the draws of batches, and weights of 0 alone are refused.
OTHER_DRAWS = parse_version(sklearn.__version__) < parse_version("1.9")
OTHER_BATCHES = "MiniBatchKMeans.fit draws the batches of scikit-learn 1.9; older ones draw others"
