//! The only folder of this crate that touches the world: sockets, disks, clocks, resolvers.

pub mod client;
pub mod committer;
pub mod courier;
pub mod dial;
mod dicom_body;
pub mod dicom_link;
mod dicom_open;
#[cfg(test)]
mod dicom_peer;
mod dicom_pool;
mod dicom_probe;
mod dicom_query;
mod dicom_scu;
pub mod dicom_send;
pub mod disk;
pub mod driver;
mod fault;
mod http_probe;
pub mod in_place;
mod lookup;
mod mllp_exchange;
pub mod mllp_link;
mod open_files;
mod pools;
pub mod resolve;
pub mod stop;
pub mod stream;
pub mod tls;
pub mod url;
