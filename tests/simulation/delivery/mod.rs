//! Delivery under faults, with virtual time: the real engine, failover machine and verdict table against scripted and random peers.
//! `SEED=n` repeats one random history.

mod behind;
mod drill;
mod journalled;
mod matrix;
mod peer;
mod random;
mod replay;
mod rules;
mod store;
mod world;
