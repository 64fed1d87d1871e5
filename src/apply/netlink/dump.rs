//! Requests that are answered with data, dumps among them. Knows nothing of what the data mean.

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST};

use super::message::{self, Kind};
use nix::errno::Errno;

use super::{Access, DUMP_ATTEMPTS, Error, NetlinkSocket, Reply, RequestError, for_each_message};

impl NetlinkSocket {
    /// Sends one request and returns the data messages before its acknowledgement.
    pub fn request(&mut self, request: &[u8]) -> Result<Vec<Reply>, Error> {
        if self.access == Access::Nothing {
            let absent = RequestError::from_errno(Errno::ENOENT as i32);
            return Err(Error::Refused(absent));
        }
        let mut replies = Vec::new();
        self.converse(request, NLM_F_REQUEST | NLM_F_ACK, |it| replies.push(it))?;
        Ok(replies)
    }

    /// Sends one dump request and returns all its data messages; begins again when the kernel
    /// says that the dump was interrupted by a change.
    pub fn dump(&mut self, request: &[u8]) -> Result<Vec<Reply>, Error> {
        self.dump_into(request, Vec::new, Vec::push)
    }

    /// The same without holding all messages at once: each goes to `take` as it comes, with what
    /// `begin` made, which is made anew when the dump begins again.
    pub fn dump_into<T>(
        &mut self,
        request: &[u8],
        begin: impl Fn() -> T,
        mut take: impl FnMut(&mut T, Reply),
    ) -> Result<T, Error> {
        if self.access == Access::Nothing {
            return Ok(begin());
        }
        for _ in 0..DUMP_ATTEMPTS {
            let mut into = begin();
            let flags = NLM_F_REQUEST | NLM_F_DUMP;
            if !self.converse(request, flags, |reply| take(&mut into, reply))? {
                return Ok(into);
            }
        }
        Err(Error::DumpInterrupted)
    }

    /// Hands on the replies; returns whether one of them was marked as interrupted.
    fn converse(
        &mut self,
        request: &[u8],
        flags: u16,
        mut take: impl FnMut(Reply),
    ) -> Result<bool, Error> {
        let sequence = self.next_sequence();
        let mut buffer = Vec::with_capacity(request.len());
        message::append(&mut buffer, request, sequence, flags)
            .ok_or(Error::NotARequest { index: 0 })?;
        self.send(&buffer, 1)?;
        let (mut interrupted, mut finished) = (false, false);
        while !finished {
            let length = self.receive_reply()?;
            for_each_message(
                self.receive_buffer.get(..length).unwrap_or_default(),
                |message| {
                    if message.sequence != sequence {
                        return Ok(());
                    }
                    interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                    match message.kind()? {
                        Kind::Data => take(Reply {
                            message_type: message.message_type,
                            flags: message.flags,
                            payload: message.payload.to_vec(),
                        }),
                        Kind::Acknowledgement(result) | Kind::Done(result) => {
                            result.map_err(Error::Refused)?;
                            finished = true;
                        }
                        Kind::Nothing => {}
                        Kind::Overrun => return Err(Error::RepliesLost),
                    }
                    Ok(())
                },
            )?;
        }
        Ok(interrupted)
    }
}
