use sha2::{Digest as _, Sha256};
use tsoracle_core::{BackupReader, BackupWriter};

/// What precedes the parts: a magic text, and the format.
const START: usize = 20;

/// The kind of the part that ends a backup: a count of eight bytes, and a digest.
const END: u8 = 3;
const COUNT: usize = 8;

/// A backup as it is, and one whose sums are right, so that what is behind them is reached as well.
pub(crate) fn backup(data: &[u8]) -> bool {
    let was_read = read(data);
    if let Some(mended) = mended(data) {
        read(&mended);
    }
    was_read
}

/// A backup that is whole can be written again as it was, and is the same.
fn read(data: &[u8]) -> bool {
    let Ok(mut backup) = BackupReader::new(data) else { return false };
    let header = backup.header().clone();
    let mut writer = BackupWriter::new(vec![], &header).expect("memory takes all");
    loop {
        match backup.next_entries() {
            Err(_) => return false,
            Ok(None) => break,
            Ok(Some(entries)) => {
                entries.iter().for_each(|entry| writer.put(entry).expect("it was read"));
            }
        }
    }
    let (again, contents) = writer.finish().expect("it was whole");
    assert_eq!(Some(&contents), backup.contents());
    let mut again = BackupReader::new(&*again).expect("it was written");
    while again.next_entries().expect("it is whole").is_some() {}
    assert_eq!((again.header(), again.contents()), (&header, Some(&contents)));
    true
}

/// The same parts, as far as there are any, with the sums that they should have.
fn mended(data: &[u8]) -> Option<Vec<u8>> {
    let (start, mut rest) = data.split_at_checked(START)?;
    let mut mended = start.to_vec();
    while let Some((head, behind)) = rest.split_first_chunk::<5>() {
        let [kind, length @ ..] = *head;
        let length = usize::try_from(u32::from_be_bytes(length)).ok()?;
        let Some((content, behind)) = behind.split_at_checked(length) else { break };
        let mut content = content.to_vec();
        if kind == END && content.len() >= COUNT {
            content.truncate(COUNT);
            content.extend_from_slice(&Sha256::digest(&mended));
        }
        let length = u32::try_from(content.len()).ok()?;
        let part = [&[kind][..], &length.to_be_bytes(), &content].concat();
        mended.extend_from_slice(&part);
        mended.extend_from_slice(&crc32c::crc32c(&part).to_be_bytes());
        rest = behind.get(4..).unwrap_or_default();
    }
    Some(mended)
}
