//! Wire and model agree: what goes out comes back in.
