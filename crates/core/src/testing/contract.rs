//! The contract of each port: what every adapter must keep, the fake and the real one alike.
