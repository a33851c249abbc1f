//! `/v1/completions` and chat over HTTP against a tiny random model, compared with libtorch.
#![cfg(test)]

mod fixture;

use bessemer_serve::Backend;
use fixture::{CONTEXT, Disk, Start, events, ids};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

fn logprobs(value: &Value, index: usize) -> (Vec<Option<f64>>, Vec<Value>) {
    let logprobs = &value["choices"][index]["logprobs"];
    let list = |name: &str| logprobs[name].as_array().unwrap().clone();
    (
        list("token_logprobs").iter().map(Value::as_f64).collect(),
        list("top_logprobs"),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_harness_scores_token_lists_and_gets_libtorchs_numbers() {
    for backend in [Backend::Native, Backend::Torch(Device::Cpu)] {
        harness(backend).await;
    }
}

async fn harness(backend: Backend) {
    let disk = Disk::new(1);
    let start = Start {
        backend,
        ..Start::default()
    };
    let server = start.serve(&disk).await;
    // The request that lm-eval's local-completions sends for log-likelihoods.
    let prompts: Vec<Vec<u32>> = vec![
        ids("The quick brown fox"),
        ids("jumps"),
        ids("over the lazy dog, again and again"),
    ];
    let body = json!({"model": "tiny", "prompt": prompts, "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": true});
    let answer = server.complete(body).await;
    let model = disk.directory().load(None, None, Device::Cpu).unwrap();
    for (index, prompt) in prompts.iter().enumerate() {
        let (scores, top) = logprobs(&answer, index);
        assert_eq!(
            scores.len(),
            prompt.len() + 1,
            "the prompt and the generated token"
        );
        assert_eq!(scores[0], None);
        let tokens: Vec<i64> = prompt.iter().map(|token| i64::from(*token)).collect();
        let reference = model
            .forward(&Tensor::from_slice(&tokens).unsqueeze(0))
            .unwrap()
            .squeeze_dim(0)
            .log_softmax(-1, Kind::Float);
        for position in 1..prompt.len() {
            let expected = reference.double_value(&[position as i64 - 1, tokens[position]]);
            let found = scores[position].unwrap();
            assert!(
                found <= 0.0 && (found - expected).abs() < 1e-4,
                "{found} {expected}"
            );
            let best = top[position]
                .as_object()
                .unwrap()
                .values()
                .filter_map(Value::as_f64)
                .fold(f64::NEG_INFINITY, f64::max);
            let greedy = reference
                .get(position as i64 - 1)
                .argmax(0, false)
                .int64_value(&[])
                == tokens[position];
            assert_eq!(
                best == found,
                greedy,
                "the harness reads greediness from this equality"
            );
        }
    }
    assert_eq!(
        answer["usage"]["prompt_tokens"],
        json!(prompts.iter().map(Vec::len).sum::<usize>())
    );
    // The same scores, bit for bit, when asked alone and while others generate.
    let other =
        json!({"model": "tiny", "prompt": "busy", "max_tokens": 200, "ignore_eos": true, "n": 5});
    let (_, alone) = tokio::join!(server.complete(other), async {
        server.complete(json!({"model": "tiny", "prompt": prompts[2], "temperature": 0, "max_tokens": 1, "logprobs": 1, "echo": true})).await
    });
    if backend == Backend::Native {
        assert_eq!(
            alone["choices"][0]["logprobs"],
            answer["choices"][2]["logprobs"]
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_come_in_four_forms_and_mean_the_same() {
    let disk = Disk::new(2);
    let server = Start::default().serve(&disk).await;
    let text = async |prompt: Value| {
        let body = json!({"model": "tiny", "prompt": prompt, "temperature": 0, "max_tokens": 12, "ignore_eos": true});
        let answer = server.complete(body).await;
        let texts: Vec<Value> = answer["choices"]
            .as_array()
            .unwrap()
            .iter()
            .map(|choice| choice["text"].clone())
            .collect();
        assert!(
            answer["choices"]
                .as_array()
                .unwrap()
                .iter()
                .all(|choice| choice["finish_reason"] == "length")
        );
        texts
    };
    let one = text(json!("hello")).await;
    assert_eq!(text(json!(ids("hello"))).await, one);
    let two = text(json!(["hello", "wörld"])).await;
    assert_eq!((two.len(), &two[0]), (2, &one[0]));
    assert_eq!(
        text(json!([
            ids("hello"),
            "wörld"
                .bytes()
                .map(|b| u32::from(b) + 4)
                .collect::<Vec<_>>()
        ]))
        .await,
        two
    );
    // Greedy text is what libtorch's arg max gives.
    let model = disk.directory().load(None, None, Device::Cpu).unwrap();
    let mut tokens: Vec<i64> = ids("hello").iter().map(|id| i64::from(*id)).collect();
    let mut bytes = Vec::new();
    for _ in 0..12 {
        let logits = model
            .forward(&Tensor::from_slice(&tokens).unsqueeze(0))
            .unwrap();
        let next = logits
            .get(0)
            .get(tokens.len() as i64 - 1)
            .argmax(0, false)
            .int64_value(&[]);
        tokens.push(next);
        bytes.extend(u8::try_from(next - 4));
    }
    assert_eq!(one[0], String::from_utf8_lossy(&bytes).as_ref());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_decides_the_text_whatever_else_runs() {
    let disk = Disk::new(3);
    let server = Start::default().serve(&disk).await;
    let ask = async |seed: Option<i64>, n: u32| {
        let body = json!({"model": "tiny", "prompt": "once", "seed": seed, "n": n, "max_tokens": 24, "temperature": 1.3, "top_p": 0.95, "ignore_eos": true});
        let answer = server.complete(body).await;
        answer["choices"]
            .as_array()
            .unwrap()
            .iter()
            .map(|choice| choice["text"].clone())
            .collect::<Vec<_>>()
    };
    let alone = ask(Some(5), 1).await;
    let (left, right, noise) = tokio::join!(ask(Some(5), 3), ask(Some(6), 1), ask(None, 6));
    assert_eq!(left[0], alone[0]);
    assert!(left[1] != left[0] && left[2] != left[0] && right[0] != alone[0]);
    assert_eq!(
        noise.iter().collect::<std::collections::HashSet<_>>().len(),
        6
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_say_the_same_as_whole_answers() {
    let disk = Disk::new(4);
    let server = Start::default().serve(&disk).await;
    let body = json!({"model": "tiny", "prompt": ["a", "bc"], "n": 2, "seed": 9, "max_tokens": 30, "ignore_eos": true, "logprobs": 2, "echo": true});
    let whole = server.complete(body.clone()).await;
    let mut streamed = body;
    streamed["stream"] = json!(true);
    streamed["stream_options"] = json!({"include_usage": true});
    let response = server.post("/v1/completions", &streamed).await;
    assert_eq!(
        response.headers()["content-type"],
        "text/event-stream; charset=utf-8"
    );
    assert_eq!(response.headers()["x-bessemer-digest"], "d1");
    let mut events = events(&response.text().await.unwrap());
    let usage = events.pop().unwrap();
    assert_eq!(
        (&usage["usage"], &usage["choices"]),
        (&whole["usage"], &json!([]))
    );
    assert_eq!(usage["usage"]["completion_tokens"], json!(120));
    for choice in whole["choices"].as_array().unwrap() {
        let own: Vec<&Value> = events
            .iter()
            .map(|e| &e["choices"][0])
            .filter(|c| c["index"] == choice["index"])
            .collect();
        let text: String = own.iter().map(|c| c["text"].as_str().unwrap()).collect();
        assert_eq!(json!(text), choice["text"]);
        for list in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
            let joined: Vec<Value> = own
                .iter()
                .flat_map(|c| c["logprobs"][list].as_array().unwrap().clone())
                .collect();
            assert_eq!(json!(joined), choice["logprobs"][list], "{list}");
        }
        assert_eq!(
            own.iter().filter(|c| !c["finish_reason"].is_null()).count(),
            1
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_strings_cut_text_and_scores() {
    let disk = Disk::new(5);
    let server = Start::default().serve(&disk).await;
    let mut body = json!({"model": "tiny", "prompt": "x", "temperature": 0, "max_tokens": 60, "ignore_eos": true, "logprobs": 0});
    let free = server.complete(body.clone()).await;
    let text = free["choices"][0]["text"].as_str().unwrap().to_owned();
    // A stop string from the middle of the text; every byte is a token, so it crosses token borders.
    let characters: Vec<char> = text.chars().collect();
    let stop: String = characters[10..13].iter().collect();
    let at = text.find(&stop).unwrap();
    body["stop"] = json!([stop, "never"]);
    let cut = server.complete(body.clone()).await;
    let choice = &cut["choices"][0];
    assert_eq!(
        (choice["text"].as_str().unwrap(), &choice["finish_reason"]),
        (&text[..at], &json!("stop"))
    );
    let offsets = choice["logprobs"]["text_offset"].as_array().unwrap();
    assert!(
        offsets
            .iter()
            .all(|offset| offset.as_u64().unwrap() < text[..at].chars().count() as u64)
    );
    body["stream"] = json!(true);
    let streamed = events(
        &server
            .post("/v1/completions", &body)
            .await
            .text()
            .await
            .unwrap(),
    );
    let joined: String = streamed
        .iter()
        .map(|e| e["choices"][0]["text"].as_str().unwrap())
        .collect();
    assert_eq!(joined, &text[..at]);
}

#[tokio::test(flavor = "multi_thread")]
async fn chat_renders_the_models_template() {
    let disk = Disk::new(6);
    let server = Start::default().serve(&disk).await;
    let mut body = json!({"model": "tiny", "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}], "temperature": 0,
        "max_completion_tokens": 20, "ignore_eos": true, "logprobs": true, "top_logprobs": 2});
    let chat: Value = server
        .post("/v1/chat/completions", &body)
        .await
        .json()
        .await
        .unwrap();
    let raw = server.complete(json!({"model": "tiny", "prompt": fixture::rendered(&disk, "hi"), "temperature": 0, "max_tokens": 20, "ignore_eos": true})).await;
    assert_eq!(
        chat["choices"][0]["message"]["content"],
        raw["choices"][0]["text"]
    );
    assert_eq!(
        (&chat["object"], &chat["usage"]["prompt_tokens"]),
        (&json!("chat.completion"), &json!(5))
    );
    let content = chat["choices"][0]["logprobs"]["content"]
        .as_array()
        .unwrap();
    assert_eq!(
        (
            content.len(),
            content[0]["top_logprobs"].as_array().unwrap().len()
        ),
        (20, 2)
    );
    body["stream"] = json!(true);
    let streamed = events(
        &server
            .post("/v1/chat/completions", &body)
            .await
            .text()
            .await
            .unwrap(),
    );
    assert_eq!(
        streamed[0]["choices"][0]["delta"],
        json!({"role": "assistant", "content": ""})
    );
    let joined: String = streamed
        .iter()
        .filter_map(|e| e["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(json!(joined), chat["choices"][0]["message"]["content"]);
    assert_eq!(
        streamed.last().unwrap()["choices"][0]["finish_reason"],
        "length"
    );
    // Without a bound the answer ends at the end of the text or fills the context.
    let open: Value = server.post("/v1/chat/completions", &json!({"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "ignore_eos": true})).await.json().await.unwrap();
    assert_eq!(open["usage"]["total_tokens"], json!(CONTEXT + 1));
}
