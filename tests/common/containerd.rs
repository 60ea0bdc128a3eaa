//! A containerd that lives below a temporary root: real HTTP/2 on a Unix
//! socket, messages by their field numbers, faults by name.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::{BufMut as _, Bytes, BytesMut};
use edge_bootstrap::paths::CONTAINERD_SOCKET;
use edge_bootstrap::sys::Root;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use prost::Message;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

/// What goes wrong, for every call or for those whose path holds `at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Takes connections and says nothing.
    Silence,
    /// Sends what is no HTTP/2.
    Garbage,
    /// Closes each connection at once.
    Closes,
    /// Says GOAWAY to each call.
    GoAway,
    /// The call is never answered.
    Hangs,
    /// Closes within a message.
    ClosesWithin,
    /// Ends the stream within a message, in good order.
    EndsWithin,
    /// A frame that says it is larger than all that is read.
    TooLarge,
    /// A frame that says it is compressed.
    Compressed,
    /// No trailers.
    NoStatus,
    /// Another HTTP status.
    Http503,
    /// Another type.
    Html,
    /// A whole message that is none of this method.
    OtherMessage,
    /// No message, and a good status.
    NoMessage,
    /// The stream is reset.
    Resets,
}

/// What it says and holds.
#[derive(Debug, Clone)]
pub struct World {
    pub version: String,
    /// Kind, id, words of its failure.
    pub plugins: Vec<(String, String, Option<String>)>,
    /// Names, or why they cannot be listed.
    pub snapshots: Result<usize, String>,
    /// Why it is not ready.
    pub runtime: Option<String>,
    /// Why it is not ready.
    pub network: Option<String>,
    /// Whether the CRI is served at all.
    pub has_cri: bool,
    /// Digest by name.
    pub images: Vec<(String, String)>,
    /// Labels that were set: image, mask, value.
    pub labels: Vec<(String, String, String)>,
    /// Paths of all calls, in order, with the namespace that they named.
    pub calls: Vec<(String, String)>,
    /// What goes wrong, and where: part of a path.
    pub fault: Option<(Fault, &'static str)>,
}

impl World {
    /// containerd 1.7 with everything well.
    fn well() -> Self {
        let plugin = |kind: &str, id: &str| (format!("io.containerd.{kind}.v1"), id.to_owned(), None);
        Self {
            version: "1.7.24~ds1".into(),
            plugins: vec![
                plugin("content", "content"),
                plugin("snapshotter", "overlayfs"),
                plugin("metadata", "bolt"),
                plugin("grpc", "cri"),
            ],
            snapshots: Ok(3),
            runtime: None,
            network: None,
            has_cri: true,
            images: vec![
                ("registry.local/pause:3.10".into(), "sha256:aa".into()),
                ("sha256:bb".into(), "sha256:aa".into()),
            ],
            labels: Vec::new(),
            calls: Vec::new(),
            fault: None,
        }
    }
}

/// Handle to the fake. It stops when this is dropped; its socket file stays.
#[derive(Debug)]
pub struct Containerd {
    world: Arc<Mutex<World>>,
    task: JoinHandle<()>,
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Containerd {
    /// Serves below `root`; a socket that is left over is replaced.
    pub fn serve(root: &Root) -> Self {
        let path = root.path(CONTAINERD_SOCKET);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(path).unwrap();
        let world = Arc::new(Mutex::new(World::well()));
        let shared = world.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(connection(stream, shared.clone()));
            }
        });
        Self { world, task }
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// From now on `fault` at every call whose path holds `at`.
    pub fn fault(&self, fault: Fault, at: &'static str) {
        self.world().fault = Some((fault, at));
    }

    /// Methods that were called since the last look.
    pub fn methods(&self) -> Vec<String> {
        let calls = std::mem::take(&mut self.world().calls);
        calls.into_iter().map(|(path, _)| path.rsplit('/').next().unwrap().to_owned()).collect()
    }
}

async fn connection(mut stream: UnixStream, world: Arc<Mutex<World>>) {
    let fault = world.lock().unwrap().fault.map(|(fault, _)| fault);
    match fault {
        Some(Fault::Silence) => std::future::pending().await,
        Some(Fault::Closes) => return,
        Some(Fault::Garbage) => {
            let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n\0\0\0\xff").await;
            return std::future::pending().await;
        }
        _ => {}
    }
    let Ok(mut http) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, respond))) = http.accept().await {
        let path = request.uri().path().to_owned();
        let fault = world.lock().unwrap().fault.filter(|(_, at)| path.contains(at)).map(|(fault, _)| fault);
        match fault {
            Some(Fault::GoAway) => http.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM),
            // Dropping the connection with the answer half sent closes the socket.
            Some(Fault::ClosesWithin) => {
                half(respond);
                let _ = tokio::time::timeout(std::time::Duration::from_millis(50), http.accept()).await;
                return;
            }
            fault => drop(tokio::spawn(call(request, respond, (world.clone(), fault)))),
        }
    }
}

fn half(mut respond: SendResponse<Bytes>) {
    let mut body = respond.send_response(head("application/grpc", 200), false).unwrap();
    body.send_data(Bytes::from_static(&[0, 0, 0, 0, 9, 1]), false).unwrap();
}

fn head(kind: &str, status: u16) -> Response<()> {
    Response::builder().status(status).header("content-type", kind).body(()).unwrap()
}

type Shared = (Arc<Mutex<World>>, Option<Fault>);

async fn call(request: Request<h2::RecvStream>, mut respond: SendResponse<Bytes>, (world, fault): Shared) {
    let (parts, mut body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let namespace = parts.headers.get("containerd-namespace").map_or("", |name| name.to_str().unwrap());
    world.lock().unwrap().calls.push((path.clone(), namespace.to_owned()));
    let mut message = BytesMut::new();
    while let Some(Ok(chunk)) = body.data().await {
        message.extend_from_slice(&chunk);
    }
    let message = message.get(5..).unwrap_or_default().to_vec();
    match fault {
        Some(Fault::Hangs) => std::future::pending().await,
        Some(Fault::Resets) => respond.send_reset(h2::Reason::INTERNAL_ERROR),
        Some(Fault::Http503) => drop(respond.send_response(head("application/grpc", 503), true)),
        Some(Fault::Html) => drop(respond.send_response(head("text/html", 200), true)),
        Some(fault) => broken(fault, respond),
        None => answer(&path, &message, &world, respond),
    }
}

fn broken(fault: Fault, mut respond: SendResponse<Bytes>) {
    let frames: &'static [u8] = match fault {
        Fault::EndsWithin => &[0, 0, 0, 0, 9, 1],
        Fault::TooLarge => &[0, 0x7f, 0xff, 0xff, 0xff, 1],
        Fault::Compressed => &[1, 0, 0, 0, 1, 1],
        Fault::OtherMessage => &[0, 0, 0, 0, 3, 0x0a, 0xff, 0xff],
        _ => &[],
    };
    let mut body = respond.send_response(head("application/grpc", 200), false).unwrap();
    let _ = body.send_data(Bytes::from_static(frames), fault == Fault::NoStatus);
    if fault != Fault::NoStatus {
        let _ = body.send_trailers(trailers(0, ""));
    }
}

fn trailers(code: u32, words: &str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.to_string().parse().unwrap());
    if !words.is_empty() {
        trailers.insert("grpc-message", words.replace(' ', "%20").parse().unwrap());
    }
    trailers
}

/// Messages in frames, or code and words of a refusal.
type Reply = Result<Vec<Vec<u8>>, (u32, String)>;

fn answer(path: &str, message: &[u8], world: &Mutex<World>, mut respond: SendResponse<Bytes>) {
    let reply = reply(path, message, &mut world.lock().unwrap());
    match reply {
        // As grpc-go: only headers, which carry the status.
        Err((code, words)) => {
            let mut head = head("application/grpc", 200);
            head.headers_mut().extend(trailers(code, &words));
            let _ = respond.send_response(head, true);
        }
        Ok(messages) => {
            let mut body = respond.send_response(head("application/grpc", 200), false).unwrap();
            for message in messages {
                let mut frame = BytesMut::new();
                frame.put_u8(0);
                frame.put_u32(u32::try_from(message.len()).unwrap());
                frame.put_slice(&message);
                let _ = body.send_data(frame.freeze(), false);
            }
            let _ = body.send_trailers(trailers(0, ""));
        }
    }
}

fn one(message: &impl Message) -> Reply {
    Ok(vec![message.encode_to_vec()])
}

fn reply(path: &str, message: &[u8], world: &mut World) -> Reply {
    if path.starts_with("/runtime.v1.") && !world.has_cri {
        return Err((12, "unknown service runtime.v1.RuntimeService".into()));
    }
    match path {
        "/containerd.services.version.v1.Version/Version" => {
            one(&Words { first: world.version.clone(), ..Words::default() })
        }
        "/containerd.services.introspection.v1.Introspection/Plugins" => one(&plugins(world)),
        "/containerd.services.snapshots.v1.Snapshots/List" => snapshots(message, world),
        "/containerd.services.snapshots.v1.Snapshots/Stat" => Err((5, "snapshot: not found".into())),
        "/runtime.v1.RuntimeService/Status" => one(&status(world)),
        "/containerd.services.images.v1.Images/List" => one(&images(world)),
        "/containerd.services.images.v1.Images/Update" => label(message, world),
        "/containerd.services.images.v1.Images/Delete" => delete(message, world),
        _ => Err((12, format!("unknown method {path}"))),
    }
}

fn plugins(world: &World) -> Plugins {
    let plugin = |(kind, id, error): &(String, String, Option<String>)| Plugin {
        kind: kind.clone(),
        id: id.clone(),
        platforms: vec![Words { first: "linux".into(), second: "amd64".into() }],
        init_err: error.as_ref().map(|words| Status { code: 2, message: words.clone() }),
    };
    Plugins { plugins: world.plugins.iter().map(plugin).collect() }
}

/// Two to a message, as a stream.
fn snapshots(message: &[u8], world: &World) -> Reply {
    let asked = Words::decode(message).unwrap().first;
    let count = world.snapshots.clone().map_err(|words| (2, words))?;
    let all: Vec<Words> =
        (0..count).map(|at| Words { first: format!("{asked}-{at}"), second: String::new() }).collect();
    Ok(all.chunks(2).map(|some| Many { items: some.to_vec() }.encode_to_vec()).collect())
}

fn status(world: &World) -> CriStatus {
    let condition = |kind: &str, why: &Option<String>| Condition {
        kind: kind.to_owned(),
        status: why.is_none(),
        reason: why.as_ref().map(|_| "Because".to_owned()).unwrap_or_default(),
        message: why.clone().unwrap_or_default(),
    };
    let conditions =
        vec![condition("RuntimeReady", &world.runtime), condition("NetworkReady", &world.network)];
    CriStatus { status: Some(Conditions { conditions }) }
}

fn images(world: &World) -> Images {
    let image = |(name, digest): &(String, String)| Image {
        name: name.clone(),
        target: Some(Words {
            first: "application/vnd.oci.image.index.v1+json".into(),
            second: digest.clone(),
        }),
        labels: labels(world, name),
    };
    Images { images: world.images.iter().map(image).collect() }
}

/// As they were set; an empty one is none.
fn labels(world: &World, image: &str) -> HashMap<String, String> {
    let of_it = world.labels.iter().filter(|(name, ..)| name == image);
    let mut labels: HashMap<String, String> = of_it
        .map(|(_, mask, value)| (mask.trim_start_matches("labels.").to_owned(), value.clone()))
        .collect();
    labels.retain(|_, value| !value.is_empty());
    labels
}

fn label(message: &[u8], world: &mut World) -> Reply {
    let update = Update::decode(message).unwrap();
    let image = update.image.unwrap();
    if !world.images.iter().any(|(name, _)| *name == image.name) {
        return Err((5, format!("image {}: not found", image.name)));
    }
    let mask = update.mask.unwrap().paths.join(",");
    let value = image.labels.values().cloned().collect();
    world.labels.push((image.name, mask, value));
    one(&Words::default())
}

fn delete(message: &[u8], world: &mut World) -> Reply {
    let delete = Delete::decode(message).unwrap();
    let before = world.images.len();
    world.images.retain(|(name, _)| *name != delete.name);
    if world.images.len() == before || !delete.sync {
        return Err((5, "not found".into()));
    }
    one(&Words::default())
}

#[derive(Clone, PartialEq, Message)]
struct Words {
    #[prost(string, tag = "1")]
    first: String,
    #[prost(string, tag = "2")]
    second: String,
}
#[derive(Clone, PartialEq, Message)]
struct Many {
    #[prost(message, repeated, tag = "1")]
    items: Vec<Words>,
}
#[derive(Clone, PartialEq, Message)]
struct Plugins {
    #[prost(message, repeated, tag = "1")]
    plugins: Vec<Plugin>,
}
#[derive(Clone, PartialEq, Message)]
struct Plugin {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "2")]
    id: String,
    #[prost(message, repeated, tag = "4")]
    platforms: Vec<Words>,
    #[prost(message, optional, tag = "7")]
    init_err: Option<Status>,
}
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}
#[derive(Clone, PartialEq, Message)]
struct CriStatus {
    #[prost(message, optional, tag = "1")]
    status: Option<Conditions>,
}
#[derive(Clone, PartialEq, Message)]
struct Conditions {
    #[prost(message, repeated, tag = "1")]
    conditions: Vec<Condition>,
}
#[derive(Clone, PartialEq, Message)]
struct Condition {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(bool, tag = "2")]
    status: bool,
    #[prost(string, tag = "3")]
    reason: String,
    #[prost(string, tag = "4")]
    message: String,
}
#[derive(Clone, PartialEq, Message)]
struct Images {
    #[prost(message, repeated, tag = "1")]
    images: Vec<Image>,
}
#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(map = "string, string", tag = "2")]
    labels: HashMap<String, String>,
    #[prost(message, optional, tag = "3")]
    target: Option<Words>,
}
#[derive(Clone, PartialEq, Message)]
struct Update {
    #[prost(message, optional, tag = "1")]
    image: Option<Image>,
    #[prost(message, optional, tag = "2")]
    mask: Option<Mask>,
}
#[derive(Clone, PartialEq, Message)]
struct Mask {
    #[prost(string, repeated, tag = "1")]
    paths: Vec<String>,
}
#[derive(Clone, PartialEq, Message)]
struct Delete {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bool, tag = "2")]
    sync: bool,
}
