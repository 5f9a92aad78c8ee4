//! Pure values of the domain: no file is opened, no process started, nothing printed in here.

pub mod deb822;
pub mod diff;
pub mod origin;
pub mod package;
pub mod request;
pub mod sources;
pub mod treefile;
pub mod version;
