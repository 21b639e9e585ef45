//! Connects to one agent.
