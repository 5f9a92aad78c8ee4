//! libapt as the [`PackageSource`](apt_ostree_core::source::PackageSource) of the engine.
