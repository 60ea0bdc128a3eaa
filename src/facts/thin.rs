//! Words of device-mapper, LVM, blkid and the kernel about thin pools and disks.
//!
//! Owns parsing them, and the names of LVM in device-mapper. Runs nothing and
//! decides nothing; a line that is not understood is left out, never guessed.

use super::storage::Pool;

/// What separates columns of LVM's reports: no name and no tag of LVM holds it.
/// Plain columns, because LVM before 2.02.158 knows no JSON.
pub const SEPARATOR: char = '|';
/// Columns of `vgs` for [`groups`].
pub const GROUP_COLUMNS: &str = "vg_name,vg_attr,vg_size,vg_free,vg_extent_size,vg_tags";
/// Columns of `lvs -a` for [`volumes`].
pub const VOLUME_COLUMNS: &str = "vg_name,lv_name,lv_attr,lv_size,lv_metadata_size,lv_tags";
/// Columns of `pvs` for [`disks`].
pub const DISK_COLUMNS: &str = "pv_name,pv_uuid,vg_name,vg_tags";

/// Volume group and volume of a device-mapper name. LVM joins them with one
/// dash and doubles those inside: `edge--x-thin--pool` is `edge-x` and
/// `thin-pool`. `None` for a name that LVM would not give to a volume.
#[must_use]
pub fn volume_of(name: &str) -> Option<(String, String)> {
    let mut parts = vec![String::new()];
    let mut rest = name.chars().peekable();
    while let Some(letter) = rest.next() {
        if letter == '-' && rest.next_if_eq(&'-').is_none() {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(letter);
        }
    }
    let [group, volume] = <[String; 2]>::try_from(parts).ok()?;
    let fits = |text: &str| !text.is_empty() && !text.starts_with('-');
    (fits(&group) && fits(&volume)).then_some((group, volume))
}

/// The device-mapper name that LVM gives a volume.
#[must_use]
pub fn name_of(group: &str, volume: &str) -> String {
    format!("{}-{}", group.replace('-', "--"), volume.replace('-', "--"))
}

/// One line of `dmsetup status POOL`, without a name in front; `None` when the
/// device is no thin pool. Read from the left: kernels before 3.17 end earlier,
/// and a pool that failed says nothing but `Fail` (kernel:
/// Documentation/admin-guide/device-mapper/thin-provisioning.rst).
#[must_use]
pub fn pool(line: &str) -> Option<Pool> {
    let mut words = line.split_whitespace().skip(2);
    if words.next() != Some("thin-pool") {
        return None;
    }
    let words: Vec<&str> = words.collect();
    let up = Pool { active: true, ..Pool::default() };
    if matches!(*words.first()?, "Fail" | "Error") {
        return Some(Pool { mode: "fail".to_owned(), ..up });
    }
    Some(Pool {
        metadata: share(words.get(1)?)?,
        data: share(words.get(2)?)?,
        mode: (*words.get(4)?).to_owned(),
        needs_check: words.iter().skip(5).any(|word| *word == "needs_check"),
        ..up
    })
}

fn share(word: &str) -> Option<(u64, u64)> {
    let (used, all) = word.split_once('/')?;
    Some((used.parse().ok()?, all.parse().ok()?))
}

/// A volume group as `vgs` tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Some of its disks are missing.
    pub is_partial: bool,
    /// Size in bytes.
    pub size: u64,
    /// Free bytes.
    pub free: u64,
    /// Size of one extent in bytes.
    pub extent: u64,
    /// Its tags.
    pub tags: Vec<String>,
}

/// A logical volume as `lvs -a` tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Volume {
    /// Its volume group.
    pub group: String,
    /// Its name, without the brackets of a hidden one.
    pub name: String,
    /// Whether it is a part of another one that nobody uses by itself.
    pub is_hidden: bool,
    /// `lv_attr`: its first letter is the type (`t`: thin pool), its fifth the state.
    pub attributes: String,
    /// Size in bytes.
    pub size: u64,
    /// Thin pools: size of the metadata in bytes.
    pub metadata_size: u64,
    /// Its tags.
    pub tags: Vec<String>,
}

impl Volume {
    /// Whether it is a thin pool.
    #[must_use]
    pub fn is_thin_pool(&self) -> bool {
        self.attributes.starts_with('t')
    }

    /// Whether its device is there.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.attributes.chars().nth(4) == Some('a')
    }

    /// Whether it is a part of the thin pool `pool` of its group, or the spare
    /// for the metadata of the group's pools. A person's own may be called alike.
    #[must_use]
    pub fn is_part_of(&self, pool: &str) -> bool {
        let part = self.name.strip_prefix(pool).and_then(|rest| rest.strip_prefix("_t"));
        let part = part.and_then(|rest| rest.strip_prefix("data").or_else(|| rest.strip_prefix("meta")));
        // A mirrored one has parts itself: `_tdata_rimage_0`.
        let is_part = part.is_some_and(|rest| rest.is_empty() || rest.starts_with('_'));
        self.is_hidden && (is_part || self.name.ends_with("_pmspare"))
    }
}

/// A physical volume as `pvs` tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Disk {
    /// Path of its device; `[unknown]` or the like when that is missing.
    pub path: String,
    /// Its UUID.
    pub uuid: String,
    /// Its volume group; `None` while it is in none.
    pub group: Option<String>,
    /// Tags of that group.
    pub tags: Vec<String>,
}

/// What `vgs --noheadings --nosuffix --units b --separator '|'` printed for
/// [`GROUP_COLUMNS`].
#[must_use]
pub fn groups(text: &str) -> Vec<Group> {
    let row = |row: [&str; 6]| {
        let [name, attributes, size, free, extent, tags] = row;
        Some(Group {
            name: name.to_owned(),
            is_partial: attributes.chars().nth(3) == Some('p'),
            size: bytes(size)?,
            free: bytes(free)?,
            extent: bytes(extent)?,
            tags: list(tags),
        })
    };
    text.lines().filter_map(columns).filter_map(row).collect()
}

/// What `lvs -a` printed in the same form for [`VOLUME_COLUMNS`].
#[must_use]
pub fn volumes(text: &str) -> Vec<Volume> {
    let row = |row: [&str; 6]| {
        let [group, name, attributes, size, metadata, tags] = row;
        Some(Volume {
            group: group.to_owned(),
            name: name.trim_start_matches('[').trim_end_matches(']').to_owned(),
            is_hidden: name.starts_with('['),
            attributes: attributes.to_owned(),
            size: bytes(size)?,
            metadata_size: bytes(metadata).unwrap_or_default(),
            tags: list(tags),
        })
    };
    text.lines().filter_map(columns).filter_map(row).collect()
}

/// What `pvs` printed in the same form for [`DISK_COLUMNS`].
#[must_use]
pub fn disks(text: &str) -> Vec<Disk> {
    let row = |row: [&str; 4]| Disk {
        path: row[0].to_owned(),
        uuid: row[1].to_owned(),
        group: Some(row[2].to_owned()).filter(|group| !group.is_empty()),
        tags: list(row[3]),
    };
    text.lines().filter_map(columns).map(row).collect()
}

fn columns<const N: usize>(line: &str) -> Option<[&str; N]> {
    let cells: Vec<&str> = line.split(SEPARATOR).map(str::trim).collect();
    cells.try_into().ok().filter(|cells: &[&str; N]| !cells[0].is_empty())
}

/// Whole bytes; some versions print a unit or decimals all the same.
fn bytes(cell: &str) -> Option<u64> {
    let digits = cell.trim_end_matches(['B', 'b']);
    digits.split(['.', ',']).next()?.parse().ok()
}

fn list(cell: &str) -> Vec<String> {
    cell.split(',').filter(|tag| !tag.is_empty()).map(str::to_owned).collect()
}

/// Names of what `blkid -p -o export DEVICE` found: `TYPE=…`, `PTTYPE=…`.
#[must_use]
pub fn probed(text: &str) -> Vec<String> {
    let value = |line: &str| {
        let (key, value) = line.split_once('=')?;
        match key {
            "TYPE" => Some(value.to_owned()),
            "PTTYPE" => Some(format!("partition table {value}")),
            _ => None,
        }
    };
    text.lines().filter_map(value).collect()
}

/// Names of what `wipefs --parsable DEVICE` found. One row per signature, the
/// type in the last column; old and new util-linux differ in what is before it.
#[must_use]
pub fn signatures(text: &str) -> Vec<String> {
    let rows = text.lines().map(str::trim).filter(|row| !row.is_empty() && !row.starts_with('#'));
    rows.map(|row| row.rsplit(',').next().unwrap_or_default().trim().to_owned()).collect()
}

/// Devices in use as swap, from `/proc/swaps`.
#[must_use]
pub fn swaps(text: &str) -> Vec<String> {
    let devices = text.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    devices.filter(|path| path.starts_with('/')).map(str::to_owned).collect()
}

/// Names of arrays in `/proc/mdstat` that have the block device `name` as a member.
#[must_use]
pub fn arrays(text: &str, name: &str) -> Vec<String> {
    let member = |word: &str| word.split_once('[').is_some_and(|(device, _)| device == name);
    let arrays = text.lines().filter_map(|line| line.split_once(" : "));
    let with = arrays.filter(|(_, members)| members.split_whitespace().any(member));
    with.map(|(array, _)| array.trim().to_owned()).collect()
}

/// Mount points of the block device `major:minor`, from `/proc/self/mountinfo`.
#[must_use]
pub fn mounts(text: &str, number: &str) -> Vec<String> {
    let point = |line: &str| {
        let mut words = line.split_whitespace().skip(2);
        (words.next()? == number).then(|| words.nth(1).map(str::to_owned))?
    };
    text.lines().filter_map(point).collect()
}

#[cfg(test)]
#[path = "thin_tests.rs"]
mod tests;
