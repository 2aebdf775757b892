/* A fake vLLM engine that costs next to nothing, so that a router before it is what is measured.
 *
 * upstream PORT [PORT...] --gap-us N --chunks N --model NAME
 *
 * One thread, one epoll loop, one port per endpoint. Answers are built once. A stream gets its first
 * chunk at once and one more at every tick of a timer shared by all streams, which is how an engine
 * emits: one token for every running sequence per step. GET /bench/stats tells what was served.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { MAX_PORTS = 16, MAX_FDS = 8192, READ_BYTES = 1 << 18, MAX_BODY = 64 << 20, TAIL = 32 };
enum kind { LISTEN = 1, TIMER, CONN };

struct port {
    unsigned long requests, streams, chunks, aborted, bytes, unfinished_writes, not_found;
};
struct conn {
    enum kind kind;
    int fd, port;
    char *in;                  /* bytes not yet consumed */
    size_t in_len, in_cap;
    int streaming, sent_chunks, want_usage;
    size_t live;               /* place in live[] while streaming */
};
struct reply { char *data; size_t len; };

static struct port ports[MAX_PORTS];
static int port_count, chunk_count = 64, epoll_fd;
static long gap_us = 2000;
static const char *model = "bench-model";
static struct conn conns[MAX_FDS];
static int live[MAX_FDS];      /* descriptors of connections in the middle of a stream */
static size_t live_count;
static struct reply answer, stream_head, first_chunk, middle_chunk, finish_chunk, usage_chunk, done_chunk;

static void die(const char *what) { perror(what); exit(1); }

static struct reply text(const char *format, ...) {
    struct reply made;
    va_list args;
    va_start(args, format);
    int len = vasprintf(&made.data, format, args);
    va_end(args);
    if (len < 0) die("vasprintf");
    made.len = (size_t)len;
    return made;
}

/* One server-sent event as one chunk of a chunked body. */
static struct reply event(const char *json) {
    return text("%zx\r\ndata: %s\n\n\r\n", strlen(json) + 8, json);
}

static struct reply chunk(const char *delta, const char *finish) {
    struct reply json = text("{\"id\":\"chatcmpl-5f0c2a7be1d94d0f9a3b6c1e\",\"object\":\"chat.completion.chunk\","
        "\"created\":1764000000,\"model\":\"%s\",\"choices\":[{\"index\":0,\"delta\":%s,"
        "\"logprobs\":null,\"finish_reason\":%s,\"token_ids\":null}]}", model, delta, finish);
    struct reply made = event(json.data);
    free(json.data);
    return made;
}

static void build_replies(void) {
    const char *usage = "\"usage\":{\"prompt_tokens\":600,\"total_tokens\":664,\"completion_tokens\":64,"
        "\"prompt_tokens_details\":{\"cached_tokens\":512}}";
    struct reply json = text("{\"id\":\"chatcmpl-5f0c2a7be1d94d0f9a3b6c1e\",\"object\":\"chat.completion\","
        "\"created\":1764000000,\"model\":\"%s\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\","
        "\"content\":\"A headrace is the channel that brings water to the turbines. It is dug so that the fall is "
        "spent where it is useful, and what is left runs off by the tailrace.\",\"refusal\":null,\"annotations\":null,"
        "\"audio\":null,\"function_call\":null,\"tool_calls\":[],\"reasoning_content\":null},\"logprobs\":null,"
        "\"finish_reason\":\"length\",\"stop_reason\":null,\"token_ids\":null}],\"service_tier\":null,"
        "\"system_fingerprint\":null,%s,\"prompt_logprobs\":null,\"kv_transfer_params\":null}", model, usage);
    answer = text("HTTP/1.1 200 OK\r\ndate: Tue, 24 Nov 2026 00:00:00 GMT\r\nserver: uvicorn\r\n"
        "content-length: %zu\r\ncontent-type: application/json\r\n\r\n%s", json.len, json.data);
    stream_head = text("HTTP/1.1 200 OK\r\ndate: Tue, 24 Nov 2026 00:00:00 GMT\r\nserver: uvicorn\r\n"
        "content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n");
    first_chunk = chunk("{\"role\":\"assistant\",\"content\":\"\"}", "null");
    middle_chunk = chunk("{\"content\":\" water\"}", "null");
    finish_chunk = chunk("{\"content\":\".\"}", "\"length\"");
    json = text("{\"id\":\"chatcmpl-5f0c2a7be1d94d0f9a3b6c1e\",\"object\":\"chat.completion.chunk\","
        "\"created\":1764000000,\"model\":\"%s\",\"choices\":[],%s}", model, usage);
    usage_chunk = event(json.data);
    done_chunk = text("e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n");
}

/* vllm-router asks for the prompt's tokens before every request (/v1/chat/completions/render, then
 * /tokenize). They are not here: its fall-back to the text is the cheaper course for it, measured both
 * ways. Counted, to be seen. */
static const char not_found[] = "HTTP/1.1 404 Not Found\r\nserver: uvicorn\r\ncontent-length: 22\r\n"
    "content-type: application/json\r\n\r\n{\"detail\":\"Not Found\"}";

static void close_conn(struct conn *c) {
    if (c->streaming) {
        ports[c->port].aborted++;
        live[c->live] = live[--live_count];
        conns[live[c->live]].live = c->live;
    }
    close(c->fd);
    free(c->in);
    memset(c, 0, sizeof *c);
}

/* Replies are small and readers fast; a peer that stops reading loses its connection, counted. One
 * that has gone is no fault: its client left. */
static int put(struct conn *c, const char *data, size_t len) {
    ssize_t sent = send(c->fd, data, len, MSG_NOSIGNAL);
    if (sent == (ssize_t)len) return 1;
    if (sent < 0 && (errno == EPIPE || errno == ECONNRESET)) ports[c->port].aborted += !c->streaming;
    else ports[c->port].unfinished_writes++;
    close_conn(c);
    return 0;
}

static void put_json(struct conn *c, const char *json) {
    struct reply r = text("HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-length: %zu\r\n"
        "content-type: application/json\r\n\r\n%s", strlen(json), json);
    put(c, r.data, r.len);
    free(r.data);
}

static void get_stats(struct conn *c) {
    char out[4096];
    struct rusage self;
    getrusage(RUSAGE_SELF, &self);
    size_t n = (size_t)snprintf(out, sizeof out, "{\"cpu_us\":%ld,\"live\":%zu,\"endpoints\":[",
        (self.ru_utime.tv_sec + self.ru_stime.tv_sec) * 1000000L + self.ru_utime.tv_usec + self.ru_stime.tv_usec,
        live_count);
    for (int i = 0; i < port_count; i++)
        n += (size_t)snprintf(out + n, sizeof out - n, "%s{\"requests\":%lu,\"streams\":%lu,\"chunks\":%lu,"
            "\"aborted\":%lu,\"bytes\":%lu,\"unfinished_writes\":%lu,\"not_found\":%lu}", i ? "," : "", ports[i].requests,
            ports[i].streams, ports[i].chunks, ports[i].aborted, ports[i].bytes, ports[i].unfinished_writes,
            ports[i].not_found);
    snprintf(out + n, sizeof out - n, "]}");
    put_json(c, out);
}

static void get(struct conn *c, const char *path) {
    char out[1024];
    if (!strncmp(path, "/bench/stats", 12)) { get_stats(c); return; }
    if (!strncmp(path, "/v1/models", 10))
        snprintf(out, sizeof out, "{\"object\":\"list\",\"data\":[{\"id\":\"%s\",\"object\":\"model\",\"created\":"
            "1764000000,\"owned_by\":\"vllm\",\"root\":\"%s\",\"parent\":null,\"max_model_len\":131072}]}", model, model);
    else if (!strncmp(path, "/version", 8)) snprintf(out, sizeof out, "{\"version\":\"0.32.0\"}");
    else if (strstr(path, "info"))
        snprintf(out, sizeof out, "{\"model_path\":\"%s\",\"served_model_name\":\"%s\",\"is_generation\":true,"
            "\"dp_size\":1,\"tp_size\":1,\"max_total_num_tokens\":400000}", model, model);
    else if (!strncmp(path, "/metrics", 8))
        snprintf(out, sizeof out, "vllm:num_requests_running{model_name=\"%s\"} %zu.0\n"
            "vllm:num_requests_waiting{model_name=\"%s\"} 0.0\nvllm:kv_cache_usage_perc{model_name=\"%s\"} 0.1\n",
            model, live_count, model, model);
    else snprintf(out, sizeof out, "{}");
    put_json(c, out);
}

static void post(struct conn *c, const char *body, size_t len) {
    struct port *p = &ports[c->port];
    p->requests++;
    p->bytes += len;
    const char *stream = memmem(body, len, "\"stream\":", 9);
    if (!stream || !memmem(stream, (size_t)(body + len - stream) < 16 ? (size_t)(body + len - stream) : 16, "true", 4)) {
        put(c, answer.data, answer.len);
        return;
    }
    p->streams++;
    c->want_usage = memmem(body, len, "include_usage", 13) != NULL;
    if (!put(c, stream_head.data, stream_head.len) || !put(c, first_chunk.data, first_chunk.len)) return;
    c->streaming = 1;
    c->sent_chunks = 1;
    p->chunks++;
    c->live = live_count;
    live[live_count++] = c->fd;
}

/* Give every live stream its next chunk; the last one brings the finish reason, usage and [DONE]. */
static void tick(void) {
    for (size_t i = live_count; i-- > 0;) {
        struct conn *c = &conns[live[i]];
        ports[c->port].chunks++;
        if (++c->sent_chunks < chunk_count) {
            put(c, middle_chunk.data, middle_chunk.len);
            continue;
        }
        char last[4096];
        size_t n = 0;
        memcpy(last, finish_chunk.data, finish_chunk.len), n += finish_chunk.len;
        if (c->want_usage) memcpy(last + n, usage_chunk.data, usage_chunk.len), n += usage_chunk.len;
        memcpy(last + n, done_chunk.data, done_chunk.len), n += done_chunk.len;
        live[c->live] = live[--live_count];
        conns[live[c->live]].live = c->live;
        c->streaming = 0;
        put(c, last, n);
    }
}

/* Length of the body that starts at ``body``: -1 when more bytes are needed; sets what to consume. */
static long body_length(const char *head, size_t head_len, const char *body, size_t have, size_t *consume) {
    char *length = memmem(head, head_len, "ontent-", 7) ? strcasestr(head, "\r\ncontent-length:") : NULL;
    if (length && length < head + head_len) {
        size_t want = strtoul(length + 17, NULL, 10);
        *consume = want;
        return want > have ? -1 : (long)want;
    }
    if (strcasestr(head, "\r\ntransfer-encoding: chunked")) {
        if (have < 5 || memcmp(body + have - 5, "0\r\n\r\n", 5)) return -1;
        *consume = have;
        return (long)have;
    }
    *consume = 0;
    return 0;
}

/* Serve one whole request out of what has come in; 0 when there is none. */
static int serve(struct conn *c) {
    char *end = memmem(c->in, c->in_len, "\r\n\r\n", 4);
    if (!end || c->streaming) return 0;
    char kept = *end;
    *end = 0;
    size_t head_len = (size_t)(end - c->in) + 4, consume;
    long len = body_length(c->in, head_len, end + 4, c->in_len - head_len, &consume);
    if (len < 0 && strcasestr(c->in, "\r\nexpect: 100-continue") && c->in_len == head_len) {
        *end = kept;
        put(c, "HTTP/1.1 100 Continue\r\n\r\n", 25);
        return 0;
    }
    if (len < 0) { *end = kept; return 0; }
    if (!strncmp(c->in, "POST /v1/chat/completions ", 26) || !strncmp(c->in, "POST /v1/completions ", 21))
        post(c, end + 4, (size_t)len);
    else if (c->in[0] == 'P') {
        ports[c->port].not_found++;
        put(c, not_found, sizeof not_found - 1);
    } else get(c, strchr(c->in, ' ') ? strchr(c->in, ' ') + 1 : "/");
    if (c->kind != CONN) return 0;
    c->in_len -= head_len + consume;
    memmove(c->in, c->in + head_len + consume, c->in_len);
    return c->in_len > 0;
}

static void readable(struct conn *c) {
    if (c->in_cap - c->in_len < READ_BYTES / 4) {
        c->in_cap = c->in_cap ? c->in_cap * 2 : READ_BYTES;
        if (c->in_cap > MAX_BODY || !(c->in = realloc(c->in, c->in_cap + TAIL))) die("body");
    }
    ssize_t n = recv(c->fd, c->in + c->in_len, c->in_cap - c->in_len, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) { close_conn(c); return; }
    c->in_len += (size_t)n;
    c->in[c->in_len] = 0;
    while (c->kind == CONN && serve(c)) {}
}

static void watch(int fd, enum kind kind, int port) {
    conns[fd] = (struct conn){.kind = kind, .fd = fd, .port = port};
    struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e)) die("epoll_ctl");
}

static void accept_all(struct conn *listener) {
    int fd, one = 1;
    while ((fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        if (fd >= MAX_FDS) { close(fd); continue; }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        watch(fd, CONN, listener->port);
    }
}

static void listen_on(int number) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)number),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 1024)) die("listen");
    if (getsockname(fd, (struct sockaddr *)&at, &len)) die("getsockname");
    printf("%d\n", ntohs(at.sin_port));
    watch(fd, LISTEN, port_count++);
}

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    epoll_fd = epoll_create1(0);
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--gap-us") && i + 1 < argc) gap_us = atol(argv[++i]);
        else if (!strcmp(argv[i], "--chunks") && i + 1 < argc) chunk_count = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--model") && i + 1 < argc) model = argv[++i];
        else if (port_count < MAX_PORTS) listen_on(atoi(argv[i]));
    }
    fflush(stdout);
    build_replies();
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct itimerspec every = {{gap_us / 1000000, gap_us % 1000000 * 1000}, {gap_us / 1000000, gap_us % 1000000 * 1000}};
    if (timerfd_settime(timer, 0, &every, NULL)) die("timer");
    watch(timer, TIMER, 0);
    struct epoll_event events[256];
    for (;;) {
        int n = epoll_wait(epoll_fd, events, 256, -1);
        for (int i = 0; i < n; i++) {
            struct conn *c = &conns[events[i].data.fd];
            uint64_t expired;
            if (c->kind == LISTEN) accept_all(c);
            else if (c->kind == CONN) readable(c);
            else if (c->kind == TIMER && read(c->fd, &expired, 8) == 8) tick();
        }
    }
}
