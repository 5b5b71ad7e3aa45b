//! The fields of a message's bytes, one after the other. Nothing is allocated and no length is trusted: a value is a
//! part of the bytes that are there.

/// What is wrong with bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WireError {
    /// A value ends behind the end of the bytes.
    Truncated,
    /// A number has more than ten bytes.
    LongNumber,
    /// A field number of 0 or above 2^29 - 1.
    FieldNumber,
    /// Wire type 6 or 7, or the end of a group that did not begin.
    WireType,
    /// Groups nested too deep.
    TooDeep,
}

impl WireError {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Truncated => "the bytes end in the middle of a field",
            Self::LongNumber => "a number is longer than ten bytes",
            Self::FieldNumber => "there is no such field number",
            Self::WireType => "there is no such wire type",
            Self::TooDeep => "groups are nested too deep",
        }
    }
}

/// A field as it stands on the wire.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawField<'a> {
    pub(crate) number: u32,
    pub(crate) value: RawValue<'a>,
}

/// A value by wire type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RawValue<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    /// A group, which proto3 does not have: skipped.
    Group,
    Fixed32(u32),
}

impl<'a> RawValue<'a> {
    pub(crate) fn varint(self) -> Option<u64> {
        if let Self::Varint(n) = self { Some(n) } else { None }
    }

    pub(crate) fn bytes(self) -> Option<&'a [u8]> {
        if let Self::Bytes(b) = self { Some(b) } else { None }
    }
}

/// Reads fields until the bytes end. After an error it yields nothing more.
#[derive(Clone)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// A base-128 number. Bits beyond 64 are dropped, as every protobuf reader does.
    pub(crate) fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let (&byte, rest) = self.rest.split_first().ok_or(WireError::Truncated)?;
            self.rest = rest;
            if shift < 64 {
                value |= u64::from(byte & 0x7f) << shift;
            }
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(WireError::LongNumber)
    }

    pub(crate) fn fixed32(&mut self) -> Result<u32, WireError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(u32::from_le_bytes(*bytes))
    }

    pub(crate) fn fixed64(&mut self) -> Result<u64, WireError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(u64::from_le_bytes(*bytes))
    }

    fn tag(&mut self) -> Result<(u32, u8), WireError> {
        let tag = u32::try_from(self.varint()?).map_err(|_| WireError::FieldNumber)?;
        if tag >> 3 == 0 { Err(WireError::FieldNumber) } else { Ok((tag >> 3, (tag & 7) as u8)) }
    }

    fn field(&mut self) -> Result<RawField<'a>, WireError> {
        let (number, wire_type) = self.tag()?;
        let value = match wire_type {
            0 => RawValue::Varint(self.varint()?),
            1 => RawValue::Fixed64(self.fixed64()?),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| WireError::Truncated)?;
                let (bytes, rest) = self.rest.split_at_checked(length).ok_or(WireError::Truncated)?;
                self.rest = rest;
                RawValue::Bytes(bytes)
            }
            3 => {
                self.skip_group(number)?;
                RawValue::Group
            }
            5 => RawValue::Fixed32(self.fixed32()?),
            _ => return Err(WireError::WireType),
        };
        Ok(RawField { number, value })
    }

    /// Skips to the end of a group, and of the groups in it.
    fn skip_group(&mut self, number: u32) -> Result<(), WireError> {
        let mut open = vec![number];
        while let Some(&innermost) = open.last() {
            let (number, wire_type) = self.tag()?;
            match wire_type {
                0 => drop(self.varint()?),
                1 => drop(self.fixed64()?),
                2 => {
                    let length = usize::try_from(self.varint()?).map_err(|_| WireError::Truncated)?;
                    self.rest = self.rest.split_at_checked(length).ok_or(WireError::Truncated)?.1;
                }
                3 if open.len() >= crate::check::MAX_MESSAGE_DEPTH => return Err(WireError::TooDeep),
                3 => open.push(number),
                4 if number == innermost => drop(open.pop()),
                5 => drop(self.fixed32()?),
                _ => return Err(WireError::WireType),
            }
        }
        Ok(())
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Result<RawField<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}
