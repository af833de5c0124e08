"""The shapes of a quantizer: x, masks and codes as users hand them in, and as rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kmeans_module import checks as check
from kmeans_module.core.distances import unit_rows
from kmeans_module.core.guard import nan_like, no_plain, readable, under_mode
from kmeans_module.core.statistics import accumulator_dtype
from kmeans_module.core.words import shown

NO_CODE = -1
CODE_DTYPES = (torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True)
class Layout:
    r"""How x (\*, d) becomes rows (P, n, d / heads), and codes of rows become codes of x.

    P is the number of codebooks: 1 where all heads share a codebook, which then has heads times as
    many rows as x has samples; otherwise the number of heads.

    Args:
        n_features: features of a vector, d.
        heads: parts of the features that are quantized each on its own; divides n_features.
        separate_codebooks: whether each head has a codebook of its own.
        channel_first: whether features are dimension 1 of x, (N, d, \*), as in images.
    """

    n_features: int
    heads: int = 1
    separate_codebooks: bool = False
    channel_first: bool = False

    def check(
        self, x: object, mask: object, device: torch.device, *, integers: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """x with its features last, (*, d), and the mask (*) as bool.

        Args:
            x, mask: what a user handed in.
            device: of the centroids.
            integers: whether x may hold integers: where nothing comes back in its dtype.

        Raises:
            TypeError: x does not hold floats.
            ValueError: x of another number of features or on another device than the
                centroids, a mask of another shape.
        """
        x = check.check_rows(x)
        if not (integers or x.is_floating_point()):
            raise TypeError(f"x should hold floats; got {x.dtype}")
        dimension = 1 if self.channel_first else -1
        if x.ndim < 1 + self.channel_first or x.shape[dimension] != self.n_features:
            d = self.n_features
            shape = f"(n, {d}, ...)" if self.channel_first else f"(..., {d})"
            raise ValueError(f"x should have shape {shape}; got {tuple(x.shape)}")
        if x.device != device:
            check.check_device("x", x, device)
        if self.channel_first:
            x = x.movedim(1, -1)
        if mask is None:
            return x, None
        mask = check.check_tensor("mask", mask)
        if mask.shape != x.shape[:-1]:
            raise ValueError(
                f"mask should have shape {tuple(x.shape[:-1])}; got {tuple(mask.shape)}"
            )
        return x, mask.to(torch.bool)

    def check_weight(self, sample_weight: object, x: Tensor) -> Tensor | None:
        """Weights (*) of x (*, d), float64 (float32 on MPS).

        Raises:
            TypeError: no tensor of real numbers.
            ValueError: another shape or device than that of x; on the CPU also weights that are
                negative, not finite or too large. An accelerator is not waited for, nor does
                compiled code look: a batch with such weights is refused as one of NaN is.
        """
        if sample_weight is None:
            return None
        weight = check.check_tensor("sample_weight", sample_weight)
        if weight.shape != x.shape[:-1]:
            raise ValueError(
                f"sample_weight should have shape {tuple(x.shape[:-1])}, one weight per sample; "
                f"got {tuple(weight.shape)}"
            )
        if readable(weight):
            flat = check.check_sample_weight(weight.reshape(-1), x.reshape(-1, x.shape[-1]))
            assert flat is not None
            return flat.view(weight.shape)
        check.check_device("sample_weight", weight, x.device)
        return weight.to(accumulator_dtype(x.device))

    def to_rows(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """x (*, d) as rows (P, n, d / heads) of a dtype."""
        if x.dtype != dtype:
            x = x.to(dtype)
        features = self.n_features // self.heads
        if self.separate_codebooks:
            return x.reshape(-1, self.heads, features).transpose(0, 1)
        return x.reshape(1, -1, features)

    def from_rows(self, rows: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Rows (P, n, d / heads) in the shape (*, d), of a dtype."""
        if self.separate_codebooks:
            rows = rows.transpose(0, 1)
        x = rows.reshape(shape)
        return x if x.dtype == dtype else x.to(dtype)

    def features_back(self, x: Tensor) -> Tensor:
        """x (*, d) with features where users have them: (N, d, *) with channel_first."""
        return x.movedim(-1, 1) if self.channel_first else x

    def mask_to_rows(self, mask: Tensor) -> Tensor:
        """A mask or weights (*), of all heads of a sample, as (P, n)."""
        flat = mask.reshape(1, -1)
        if self.heads == 1:
            return flat
        if self.separate_codebooks:
            return flat.expand(self.heads, -1)
        return flat.repeat_interleave(self.heads, dim=1)

    def codes_to_rows(self, codes: Tensor) -> Tensor:
        """Codes (*), or (*, heads), as (P, n)."""
        if self.separate_codebooks:
            return codes.reshape(-1, self.heads).T
        return codes.reshape(1, -1)

    def codes_from_rows(self, codes: Tensor, shape: torch.Size) -> Tensor:
        """Codes (P, n) as the codes of x of the shape (*, d): (*), or (*, heads)."""
        if self.separate_codebooks:
            codes = codes.T
        return codes.reshape(shape[:-1] if self.heads == 1 else (*shape[:-1], self.heads))


def hide_rows(
    rows: Tensor, valids: list[Tensor | None], *, metric: str, skip_nonfinite: bool
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """Rows that do not count become 0, so that no gradient passes them and no loss is NaN.

    Args:
        rows: (P, n, d).
        valids: for each level, which rows count, (P, n) bool, and None for all; of all levels
            the first has most.
        metric: "cosine" scales rows to unit length.
        skip_nonfinite: whether rows with NaN or infinity do not count.

    Returns:
        The rows to quantize; the rows to learn from, without a gradient, where a row that is
        skipped is NaN, so that the batch is seen to be bad; and which rows count.
    """
    if valids[0] is not None:
        rows = rows.where(valids[0].unsqueeze(-1), 0.0)
    finite = None
    if skip_nonfinite:
        finite = rows.detach().isfinite().all(dim=-1)
        rows = rows.where(finite.unsqueeze(-1), 0.0)
        valids = [finite if valid is None else valid & finite for valid in valids]
    if metric == "cosine":
        rows = unit_rows(rows)
    seen = rows.detach()
    if finite is not None:
        seen = seen.where(finite.unsqueeze(-1), nan_like(seen))
    return rows, seen, valids


def weigh_rows(
    seen: Tensor, valid: Tensor | None, weight: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Rows to learn from, and how much each counts.

    Args:
        seen: (P, n, d).
        valid: which rows count, (P, n) bool; None for all.
        weight: of the rows, (P, n), as :meth:`Layout.check_weight` returned it; None for 1.

    Returns:
        seen, where a row whose weight is negative or not finite is NaN, so that the batch is
        refused; and valid, or weights (P, n) in place of it, 0 where valid is not set.
    """
    if weight is None:
        return seen, valid
    if not readable(weight):
        bad = ~((weight >= 0) & weight.isfinite())
        seen = seen.masked_fill(bad.unsqueeze(-1), nan_like(seen))
        weight = weight.masked_fill(bad, 0)
    return seen, weight if valid is None else weight.where(valid, 0.0)


def check_code_dtype(name: str, dtype: object, n_clusters: int) -> torch.dtype:
    """A signed integer type that holds the codes -1 .. k-1.

    Raises:
        TypeError: another type than int16, int32 or int64.
        ValueError: k - 1 overflows it.
    """
    if not isinstance(dtype, torch.dtype) or dtype not in CODE_DTYPES:
        choices = ", ".join(map(str, CODE_DTYPES))
        raise TypeError(f"{name} should be one of {choices}; got {shown(dtype)}")
    if n_clusters - 1 > torch.iinfo(dtype).max:
        raise ValueError(f"{name}={dtype} overflows with n_clusters={n_clusters}")
    return dtype


def check_codes(
    codes: object, *, n_codes: int | None = None, fewer: bool = False, rows: bool = False
) -> Tensor:
    """Codes as a tensor of int64: an index of uint8 would be a mask.

    Args:
        codes: what a user handed in.
        n_codes: size of the last dimension; None where any shape will do.
        fewer: whether the last dimension may be smaller, but not empty.
        rows: whether there should be one dimension more, and no others.

    Raises:
        TypeError: codes that are not integers.
        ValueError: codes of another shape.
    """
    codes = check.check_tensor("codes", codes)
    if n_codes is not None:
        size = codes.shape[-1] if codes.ndim else 0
        if size != n_codes and not (fewer and 1 <= size < n_codes):
            raise ValueError(f"codes should have shape (..., {n_codes}); got {tuple(codes.shape)}")
        if rows and codes.ndim != 2:
            raise ValueError(f"codes should have shape (n, {n_codes}); got {tuple(codes.shape)}")
    if codes.dtype.is_floating_point or codes.dtype == torch.bool:
        raise TypeError(f"codes should be integers; got {codes.dtype}")
    return codes.long()


def check_levels(n_levels: object, most: int) -> int:
    """How many of the first levels are asked for: from 1 to the most; None for these."""
    if n_levels is None:
        return most
    count = check.check_integer("n_levels", n_levels, minimum=1)
    if count > most:
        raise ValueError(f"n_levels should be from 1 to {most}; got {count}")
    return count


def check_range(codes: Tensor, n_clusters: int, *, lowest: int = 0) -> None:
    """Refuse codes outside 0 .. k-1; an accelerator is waited for. Not seen in recorded code.

    Args:
        codes: integers of any shape.
        n_clusters: k.
        lowest: -1 where that says that a vector has no code.
    """
    if under_mode() or no_plain(codes) or not codes.numel():
        return
    low, high = (int(bound) for bound in codes.aminmax())
    if low < lowest or high >= n_clusters:
        none = f", or {NO_CODE} for none" if lowest == NO_CODE else ""
        raise ValueError(f"codes should be from 0 to {n_clusters - 1}{none}; got {low} to {high}")
