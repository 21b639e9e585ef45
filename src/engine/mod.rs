//! Verbs: every decision of the product, as functions of what is passed in.
