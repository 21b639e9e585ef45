//! Tables and histories over the decisions.
