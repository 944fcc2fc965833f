//! The media relay: RTP and RTCP between the two legs of a call, on threads of its own.
//!
//! A packet's way: socket → `worker` → `session` (`latch`, `rtp`, `stats`) → the other leg's `egress` → socket. The modules
//! that decide (`session`, `latch`, `egress`, `fill`, `rtp`, `rtcp`, `stats`, `ports`) are pure: no socket, no clock, time is the
//! argument `now` in nanoseconds of CLOCK_MONOTONIC.

pub mod egress;
pub mod fill;
pub mod latch;
pub mod leg;
pub mod ports;
#[cfg(feature = "python")]
mod python;
pub mod random;
pub mod relay;
pub mod rest;
pub mod rtcp;
pub mod rtp;
pub mod session;
pub mod silence;
pub mod stats;
pub mod sys;
pub mod tap;
pub mod tone;
pub mod worker;
