//! Pure values of the domain: no file is opened, no process started, nothing printed in here.

pub mod accounts;
pub mod advisory;
pub mod changelog;
pub mod deb822;
pub mod diff;
pub mod glob;
pub mod image_kargs;
pub mod layout;
pub mod origin;
pub mod package;
pub mod request;
pub mod settings;
pub mod size;
pub mod sources;
pub mod time;
pub mod tmpfiles;
pub mod treefile;
pub mod version;
