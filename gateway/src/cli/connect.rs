//! How the command line reaches the gateway: HTTP/1.1 over `<data_dir>/admin.sock`, or for reading over the loopback address.
//! Rules: one request per connection; every wait has a deadline; what the gateway says goes to the user unchanged.
//! Errors: `Failure` with the exit status it means: 5 if the gateway cannot be reached, 1 if it refused, 2 if the question was wrong.

use super::{EXIT_REFUSED, EXIT_UNREACHABLE, EXIT_USAGE, Failure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// Time to connect and to get an answer's head. Bulk decisions of a page (1,000 envelopes) take well under a second.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Silence within a body after which the gateway counts as gone.
const PIECE_WITHIN: Duration = Duration::from_secs(30);

/// Time to take a file: 4 GB at 10 Mbit/s take an hour, which is how long the gateway keeps a connection.
const UPLOAD_WITHIN: Duration = Duration::from_secs(3_600);

/// Piece of a file on its way.
const FILE_PIECE_BYTES: usize = 256 << 10;

/// Largest JSON answer taken: a page of 1,000 envelopes has under 1 MiB.
const JSON_BYTES_MAX: usize = 64 << 20;

/// Where the gateway is.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its data directory.
    pub data_dir: PathBuf,
    /// Its loopback address, only if the configuration file names one: behind a default address another gateway may answer.
    pub bind: Option<String>,
    /// Its name, from the configuration file.
    pub name: Option<String>,
}

impl Place {
    /// From `--data-dir`, else `--config`, else `EVERPOST_CONFIG`, else the default file. Only three keys are read: an operator must get an answer from a
    /// running gateway even while the file is being edited.
    /// # Errors
    /// Usage, if none of them gives a data directory.
    pub fn find(config: Option<&Path>, data_dir: Option<&Path>) -> Result<Self, Failure> {
        if let Some(dir) = data_dir {
            return Ok(Self { data_dir: dir.to_owned(), bind: None, name: None });
        }
        let path = super::config_path(config);
        let usage = |what: String| Failure::new(EXIT_USAGE, what);
        let text = std::fs::read_to_string(&path).map_err(|e| {
            usage(format!("{}: {e}; name the configuration with --config F, or the data directory with --data-dir D", path.display()))
        })?;
        let table: toml::Table =
            text.parse().map_err(|e: toml::de::Error| usage(format!("{}: {}; or use --data-dir D", path.display(), e.message())))?;
        let data_dir = table.get("data_dir").and_then(toml::Value::as_str).map(expanded).transpose().map_err(usage)?;
        let data_dir = data_dir.ok_or_else(|| usage(format!("{}: no data_dir; or use --data-dir D", path.display())))?;
        let text = |value: Option<&toml::Value>| value.and_then(toml::Value::as_str).map(expanded).transpose().map_err(usage);
        let bind = text(table.get("admin").and_then(|a| a.get("bind")))?;
        let name = text(table.get("name"))?;
        let beside = path.parent().unwrap_or(Path::new(""));
        Ok(Self { data_dir: beside.join(data_dir), bind, name }) // an absolute one stays as it is
    }

    /// Asks and reads a JSON answer.
    /// # Errors
    /// As the module says.
    pub async fn json(&self, method: Method, path: &str, body: Option<&serde_json::Value>) -> Result<serde_json::Value, Failure> {
        let response = self.ask(method, path, body).await?;
        let bytes = whole(response).await?;
        serde_json::from_slice(&bytes).map_err(|e| Failure::new(EXIT_REFUSED, format!("the gateway's answer to {path} is not JSON: {e}")))
    }

    /// Asks and writes the answer's bytes where they belong.
    /// # Errors
    /// As the module says, and those of `sink`.
    pub async fn bytes(&self, path: &str, sink: &mut (dyn std::io::Write + Send)) -> Result<(), Failure> {
        let mut body = self.ask(Method::GET, path, None).await?.into_body();
        loop {
            let piece = tokio::time::timeout(PIECE_WITHIN, body.frame()).await.map_err(|_| gone("it stopped in the middle of the content"))?;
            let Some(piece) = piece else { return Ok(()) };
            let piece = piece.map_err(|e| gone(&format!("the content broke off: {e}")))?;
            if let Some(data) = piece.data_ref() {
                sink.write_all(data).map_err(|e| Failure::new(EXIT_REFUSED, format!("writing the content: {e}")))?;
            }
        }
    }

    /// Sends a file, piece by piece, and reads a JSON answer.
    /// # Errors
    /// As the module says.
    pub async fn upload(&self, path: &str, file: std::fs::File) -> Result<serde_json::Value, Failure> {
        let length = file.metadata().map_err(|e| Failure::new(EXIT_REFUSED, format!("the file: {e}")))?.len();
        let request = Request::post(path).header("content-type", "application/octet-stream").header("host", "localhost");
        let request = request.body(FileBody { file, left: length }).map_err(|e| Failure::new(EXIT_USAGE, format!("{path}: {e}")))?;
        let sent = tokio::time::timeout(UPLOAD_WITHIN, async {
            match crate::admin::socket::connect(&self.data_dir).await {
                Ok(stream) => exchange(stream, request).await,
                Err(e) => Err(self.unreachable(&e)),
            }
        });
        let response = sent.await.map_err(|_| gone(&format!("it did not take the file within {} s", UPLOAD_WITHIN.as_secs())))??;
        if !response.status().is_success() {
            return Err(refused(response).await);
        }
        let bytes = whole(response).await?;
        serde_json::from_slice(&bytes).map_err(|e| Failure::new(EXIT_REFUSED, format!("the gateway's answer to {path} is not JSON: {e}")))
    }

    /// Asks; a negative answer becomes a failure.
    async fn ask(&self, method: Method, path: &str, body: Option<&serde_json::Value>) -> Result<Response<Incoming>, Failure> {
        let readable = method == Method::GET;
        let body = body.map(serde_json::Value::to_string).unwrap_or_default();
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json").header("accept", "application/json");
        let host = self.bind.as_deref().unwrap_or("localhost");
        let request =
            request.header("host", host).body(Full::new(Bytes::from(body))).map_err(|e| Failure::new(EXIT_USAGE, format!("{path}: {e}")))?;
        let response = tokio::time::timeout(ANSWER_WITHIN, async {
            match (crate::admin::socket::connect(&self.data_dir).await, self.bind.as_deref().filter(|_| readable)) {
                (Ok(stream), _) => exchange(stream, request).await,
                (Err(e), Some(bind)) => {
                    self.is_ours(bind, &e).await?;
                    let stream = tokio::net::TcpStream::connect(bind).await.map_err(|_| self.unreachable(&e))?;
                    exchange(stream, request).await
                }
                (Err(e), None) => Err(self.unreachable(&e)),
            }
        })
        .await
        .map_err(|_| gone(&format!("it did not answer within {} s", ANSWER_WITHIN.as_secs())))??;
        if response.status().is_success() { Ok(response) } else { Err(refused(response).await) }
    }

    /// Whoever answers at the loopback address must bear the name in the file: where ours is down, another gateway may have its address.
    async fn is_ours(&self, bind: &str, e: &std::io::Error) -> Result<(), Failure> {
        let request = Request::builder().uri("/api/v1/status").header("host", bind).body(Full::<Bytes>::default());
        let request = request.map_err(|e| Failure::new(EXIT_USAGE, format!("[admin] bind = {bind:?}: {e}")))?;
        let stream = tokio::net::TcpStream::connect(bind).await.map_err(|_| self.unreachable(e))?;
        let answer = whole(exchange(stream, request).await?).await?;
        let answer = serde_json::from_slice::<serde_json::Value>(&answer).unwrap_or_default();
        match (answer["name"].as_str(), self.name.as_deref()) {
            (Some(theirs), Some(ours)) if theirs == ours => Ok(()),
            (Some(theirs), ours) => {
                let ours = ours.map_or_else(|| "the file names none".to_owned(), |ours| format!("not \"{ours}\""));
                Err(gone(&format!("at {bind} answers the gateway \"{theirs}\", {ours}; is ours running?")))
            }
            (None, _) => Err(gone(&format!("at {bind} answers something that is no gateway; is ours running?"))),
        }
    }

    fn unreachable(&self, e: &std::io::Error) -> Failure {
        let socket = crate::admin::socket::path(&self.data_dir);
        let remedy = match e.kind() {
            std::io::ErrorKind::PermissionDenied => "run this as the gateway's user",
            _ => "is it running, and is this its data directory?",
        };
        Failure::new(EXIT_UNREACHABLE, format!("the gateway cannot be reached at {}: {e}; {remedy}", socket.display()))
    }
}

/// A file as the body of a request: one piece of it in memory.
struct FileBody {
    file: std::fs::File,
    left: u64,
}

impl hyper::body::Body for FileBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let mut piece = vec![0; usize::try_from(self.left).unwrap_or(usize::MAX).min(FILE_PIECE_BYTES)];
        // A local file, in a command that has nothing else to do meanwhile.
        if let Err(e) = self.file.read_exact(&mut piece) {
            return Poll::Ready(Some(Err(e)));
        }
        self.left -= piece.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(piece.into()))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

async fn exchange<S, B>(stream: S, request: Request<B>) -> Result<Response<Incoming>, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: hyper::body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let broken = |e: hyper::Error| gone(&e.to_string());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    tokio::spawn(connection); // ends with the response's body
    sender.send_request(request).await.map_err(broken)
}

async fn whole(response: Response<Incoming>) -> Result<Bytes, Failure> {
    let body = http_body_util::Limited::new(response.into_body(), JSON_BYTES_MAX).collect();
    let body = tokio::time::timeout(PIECE_WITHIN, body).await.map_err(|_| gone("it stopped in the middle of the answer"))?;
    Ok(body.map_err(|e| gone(&e.to_string()))?.to_bytes())
}

/// A negative answer, in the gateway's words.
async fn refused(response: Response<Incoming>) -> Failure {
    let status = response.status();
    let detail = whole(response).await.ok().and_then(|b| serde_json::from_slice::<serde_json::Value>(&b).ok());
    let detail = detail.and_then(|p| p["detail"].as_str().or(p["title"].as_str()).map(str::to_owned)).unwrap_or_else(|| status.to_string());
    let code = if status == StatusCode::BAD_REQUEST || status == StatusCode::UNPROCESSABLE_ENTITY { EXIT_USAGE } else { EXIT_REFUSED };
    Failure::new(code, detail)
}

fn gone(what: &str) -> Failure {
    Failure::new(EXIT_UNREACHABLE, format!("the gateway cannot be reached: {what}"))
}

/// `${NAME}` and `$${`, as in the configuration.
fn expanded(text: &str) -> Result<String, String> {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            out.push_str(&rest[..at]);
            out.push('{');
            rest = &rest[at + 2..];
            continue;
        }
        let Some(end) = rest[at..].find('}') else { break };
        let name = &rest[at + 2..at + end];
        out.push_str(&rest[..at]);
        out.push_str(&std::env::var(name).map_err(|_| format!("data_dir: ${{{name}}} is not set; set it, or use --data-dir D"))?);
        rest = &rest[at + end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_found_even_in_a_file_with_faults() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("e.toml");
        std::fs::write(&file, "data_dir = \"/x/y\"\nunknown = 1\n[admin]\nbind = \"127.0.0.1:9\"\n").unwrap();
        let place = Place::find(Some(&file), None).unwrap();
        assert_eq!((place.data_dir, place.bind.as_deref()), (PathBuf::from("/x/y"), Some("127.0.0.1:9")));
        std::fs::write(&file, "data_dir = \"data\"").unwrap();
        assert_eq!(Place::find(Some(&file), None).unwrap().bind, None, "no address is guessed");
        assert_eq!(Place::find(Some(&file), None).unwrap().data_dir, dir.path().join("data"), "relative to the file");
        std::fs::write(&file, "name = \"x\"").unwrap();
        assert_eq!(Place::find(Some(&file), None).unwrap_err().code, EXIT_USAGE);
        assert_eq!(Place::find(Some(&file), Some(Path::new("/d"))).unwrap().data_dir, PathBuf::from("/d"));
    }

    #[test]
    fn variables_are_expanded_as_in_the_configuration() {
        assert_eq!(expanded("/a$${b}").unwrap(), "/a${b}");
        assert_eq!(expanded("plain").unwrap(), "plain");
        assert!(expanded("${EVERPOST_SURELY_NOT_SET}/x").unwrap_err().contains("EVERPOST_SURELY_NOT_SET"));
        let path = std::env::var("PATH").unwrap();
        assert_eq!(expanded("a${PATH}b").unwrap(), format!("a{path}b"));
    }

    #[tokio::test]
    async fn no_gateway_is_exit_status_5() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place { data_dir: dir.path().to_owned(), bind: None, name: None };
        let failure = place.json(Method::GET, "/api/v1/status", None).await.unwrap_err();
        assert_eq!(failure.code, EXIT_UNREACHABLE, "{}", failure.what);
        assert!(failure.what.contains("admin.sock"), "{}", failure.what);
    }

    /// One that answers any request with a status that bears `name`.
    async fn gateway_named(name: &'static str) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bind = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 1024]).await.unwrap();
                let body = format!("{{\"name\":\"{name}\"}}");
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        bind
    }

    #[tokio::test]
    async fn another_gateway_at_our_address_does_not_answer_for_ours() {
        let (dir, bind) = (tempfile::tempdir().unwrap(), Some(gateway_named("theirs").await));
        let place = |name: &str| Place { data_dir: dir.path().to_owned(), bind: bind.clone(), name: Some(name.to_owned()) };
        let failure = place("ours").json(Method::GET, "/api/v1/status", None).await.unwrap_err();
        assert_eq!(failure.code, EXIT_UNREACHABLE, "{}", failure.what);
        assert!(failure.what.contains("theirs") && failure.what.contains("ours"), "{}", failure.what);
        assert_eq!(place("theirs").json(Method::GET, "/api/v1/status", None).await.unwrap()["name"], "theirs");
    }
}
