//! Entry points of the fuzz targets, and the invariants they check.
