//! Pure values of the domain: no file is opened, no process started, nothing printed in here.

pub mod accounts;
pub mod deb822;
pub mod layout;
pub mod package;
pub mod request;
pub mod tmpfiles;
pub mod version;
