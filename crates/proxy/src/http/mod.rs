//! The HTTP connection manager: what it makes of heads on their way through. Nothing here does I/O.
