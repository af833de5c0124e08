"""Triton kernels. Importing a module here imports triton: only those who launch them do so."""
