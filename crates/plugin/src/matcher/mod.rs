//! Compiled matchers of strings, header fields, query parameters and fractions, and changes to header fields.
