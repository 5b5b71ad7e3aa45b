//! The commands that are known, and how each is sent.

/// How a command is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// To the host of its first argument.
    Key,
    /// To the host of its second argument: `OBJECT ENCODING key`.
    SecondKey,
    /// To the host of its third argument, the first key of a script.
    Script,
    /// Key by key; the integers of the answers are added up.
    Sum,
    /// Key by key; the answers make an array.
    Mget,
    /// Pair by pair.
    Mset,
    /// Begins or ends a transaction.
    Transaction,
    /// Forgets `WATCH`.
    Unwatch,
    /// Says which version of the protocol is spoken.
    Hello,
}

/// A command by the place that it has in [`COMMANDS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) index: usize,
    pub(super) name: &'static str,
    pub(super) kind: Kind,
}

/// The longest name.
const LONGEST: usize = 20;

/// The command of this name, in whatever case.
pub(super) fn find(name: &[u8]) -> Option<Command> {
    let mut lower = [0; LONGEST];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    let index = COMMANDS.binary_search_by(|known| known.as_bytes().cmp(lower)).ok()?;
    let name = *COMMANDS.get(index)?;
    Some(Command { index, name, kind: kind(name) })
}

fn kind(name: &str) -> Kind {
    match name {
        "del" | "exists" | "touch" | "unlink" => Kind::Sum,
        "discard" | "exec" | "multi" => Kind::Transaction,
        "eval" | "eval_ro" | "evalsha" | "evalsha_ro" => Kind::Script,
        "hello" => Kind::Hello,
        "mget" => Kind::Mget,
        "mset" => Kind::Mset,
        "object" => Kind::SecondKey,
        "unwatch" => Kind::Unwatch,
        _ => Kind::Key,
    }
}

/// In the order of their octets.
#[rustfmt::skip]
pub(super) static COMMANDS: &[&str] = &[
    "append", "bf.add", "bf.card", "bf.exists", "bf.info", "bf.insert", "bf.loadchunk", "bf.madd", "bf.mexists",
    "bf.reserve", "bf.scandump", "bitcount", "bitfield", "bitfield_ro", "bitop", "bitpos", "copy", "decr", "decrby",
    "del", "discard", "dump", "eval", "eval_ro", "evalsha", "evalsha_ro", "exec", "exists", "expire", "expireat",
    "geoadd", "geodist", "geohash", "geopos", "georadius", "georadius_ro", "georadiusbymember",
    "georadiusbymember_ro", "geosearch", "geosearchstore", "get", "getbit", "getdel", "getex", "getrange", "getset",
    "hdel", "hello", "hexists", "hexpire", "hexpireat", "hexpiretime", "hget", "hgetall", "hincrby", "hincrbyfloat",
    "hkeys", "hlen", "hmget", "hmset", "hpersist", "hpexpire", "hpexpireat", "hpexpiretime", "hpttl", "hrandfield",
    "hscan", "hset", "hsetnx", "hstrlen", "httl", "hvals", "incr", "incrby", "incrbyfloat", "lindex", "linsert",
    "llen", "lmove", "lpop", "lpos", "lpush", "lpushx", "lrange", "lrem", "lset", "ltrim", "mget", "mset", "msetnx",
    "multi", "object", "persist", "pexpire", "pexpireat", "pfadd", "pfcount", "pfmerge", "psetex", "pttl", "publish",
    "rename", "renamenx", "restore", "rpop", "rpoplpush", "rpush", "rpushx", "sadd", "scard", "sdiff", "sdiffstore",
    "set", "setbit", "setex", "setnx", "setrange", "sinter", "sinterstore", "sismember", "smembers", "smismember",
    "smove", "sort", "sort_ro", "spop", "srandmember", "srem", "sscan", "strlen", "substr", "sunion", "sunionstore",
    "touch", "ttl", "type", "unlink", "unwatch", "watch", "xack", "xadd", "xautoclaim", "xclaim", "xdel", "xlen",
    "xpending", "xrange", "xrevrange", "xtrim", "zadd", "zcard", "zcount", "zdiff", "zdiffstore", "zincrby",
    "zinter", "zinterstore", "zlexcount", "zmscore", "zpopmax", "zpopmin", "zrandmember", "zrange", "zrangebylex",
    "zrangebyscore", "zrangestore", "zrank", "zrem", "zremrangebylex", "zremrangebyrank", "zremrangebyscore",
    "zrevrange", "zrevrangebylex", "zrevrangebyscore", "zrevrank", "zscan", "zscore", "zunion", "zunionstore",
];
