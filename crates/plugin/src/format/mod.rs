//! Format strings: text and JSON with operators such as `%RESPONSE_CODE%`.
