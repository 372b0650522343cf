//! One thin function per import: guest pointers become Rust values, `hostcalls` decides, the result goes
//! back into guest memory, and the trace gets a line.

use std::time::Duration;

use wasmtime::{Caller, Linker};

use crate::body::Body;
use crate::codes::{BufferKind, CallError, MapKind, StreamKind};
use crate::faults::Effect;
use crate::hostcalls::guest_reply;
use crate::memory::{self, Failure};
use crate::pairs;
use crate::state::State;
use crate::trace::Direction;

const MODULE: &str = "env";

/// Longest piece of text that the trace shows of an argument.
const SHOWN_BYTES: usize = 60;

/// Log levels go from 0 (trace) to 5 (critical).
const MAX_LOG_LEVEL: u32 = 5;

type Guest<'a> = Caller<'a, State>;

/// The arguments of a call, written out only when the trace records.
struct Args {
    text: String,
    on: bool,
}

impl Args {
    fn say(&mut self, text: impl FnOnce() -> String) {
        if self.on {
            self.text = text();
        }
    }
}

/// Runs one host call: restriction, injected status, the call itself, trace.
fn run(
    mut caller: Guest<'_>,
    name: &'static str,
    call: impl FnOnce(&mut Guest<'_>, &mut Args) -> Result<(), Failure>,
) -> wasmtime::Result<u32> {
    let state = caller.data_mut();
    if !state.permits(name) {
        return Err(wasmtime::format_err!(
            "{name} is not allowed while the module starts or allocates for the host; only proxy_log is"
        ));
    }
    let during = state.frame.map(|frame| frame.callback);
    match state.faults.strike(name, during) {
        None => {}
        Some(Effect::Returns(status)) => {
            state.crossed(Direction::GuestToHost, name, String::new, Some(status), true);
            return Ok(status.abi());
        }
        Some(Effect::Traps) => {
            state.crossed(Direction::GuestToHost, name, String::new, None, true);
            return Err(wasmtime::format_err!("{name} was to end the VM"));
        }
    }
    let record = state.crossed(Direction::GuestToHost, name, String::new, None, false);
    let mut args = Args { text: String::new(), on: state.trace.is_recording() };
    let outcome = call(&mut caller, &mut args);
    let status = match outcome {
        Ok(()) => crate::codes::Status::Ok,
        Err(Failure::Refused(refusal)) => {
            if args.on {
                args.text = format!("{}: {refusal}", args.text);
            }
            refusal.status()
        }
        Err(Failure::Trapped(trap)) => return Err(trap),
    };
    caller.data_mut().trace.returned(record, args.text, Some(status));
    Ok(status.abi())
}

fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(Body::range(bytes, 0, SHOWN_BYTES)).escape_debug().to_string();
    if bytes.len() > SHOWN_BYTES { format!("{text}... ({} bytes)", bytes.len()) } else { text }
}

fn size(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Links every import of `env` that this host knows.
pub(crate) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    link_logging_and_time(linker)?;
    link_maps(linker)?;
    link_buffers(linker)?;
    link_properties(linker)?;
    link_sharing(linker)?;
    link_streams(linker)?;
    link_calls(linker)?;
    link_stats(linker)?;
    link_grpc(linker)
}

fn link_logging_and_time(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.func_wrap(MODULE, "proxy_log", |c: Guest<'_>, level: u32, text: u32, text_size: u32| {
        run(c, "proxy_log", |c, args| {
            if level > MAX_LOG_LEVEL {
                return Err(CallError::BadRange.into());
            }
            let text = memory::read(c, text, text_size)?;
            args.say(|| format!("{level}, {}", shown(&text)));
            c.data_mut().log(level, &text);
            Ok(())
        })
    })?;
    linker.func_wrap(MODULE, "proxy_get_log_level", |c: Guest<'_>, at: u32| {
        run(c, "proxy_get_log_level", |c, _| {
            let level = c.data().settings.log_level;
            Ok(memory::write_u32(c, at, level)?)
        })
    })?;
    linker.func_wrap(MODULE, "proxy_get_current_time_nanoseconds", |c: Guest<'_>, at: u32| {
        run(c, "proxy_get_current_time_nanoseconds", |c, _| {
            let nanos = c.data().clock().wall().as_nanos();
            Ok(memory::write_u64(c, at, u64::try_from(nanos).unwrap_or(u64::MAX))?)
        })
    })?;
    linker.func_wrap(MODULE, "proxy_set_tick_period_milliseconds", |c: Guest<'_>, period: u32| {
        run(c, "proxy_set_tick_period_milliseconds", |c, args| {
            args.say(|| format!("{period}"));
            c.data_mut().set_tick_period(Duration::from_millis(u64::from(period)));
            Ok(())
        })
    })?;
    Ok(())
}

fn link_maps(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.func_wrap(
        MODULE,
        "proxy_get_header_map_value",
        |c: Guest<'_>, map: u32, name: u32, name_size: u32, value_at: u32, size_at: u32| {
            run(c, "proxy_get_header_map_value", |c, args| {
                let map = MapKind::from_abi(map)?;
                let name = memory::read(c, name, name_size)?;
                args.say(|| format!("{map:?}, {}", shown(&name)));
                let value = c.data().header(map, &name)?;
                args.say(|| format!("{map:?}, {} -> {}", shown(&name), shown(&value)));
                memory::give(c, &value, value_at, size_at)
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "proxy_add_header_map_value",
        |c: Guest<'_>, map: u32, name: u32, name_size: u32, value: u32, value_size: u32| {
            run(c, "proxy_add_header_map_value", |c, args| {
                let map = MapKind::from_abi(map)?;
                let name = memory::read(c, name, name_size)?;
                let value = memory::read(c, value, value_size)?;
                args.say(|| format!("{map:?}, {}: {}", shown(&name), shown(&value)));
                c.data_mut().map_mut(map)?.add(&name, &value);
                Ok(())
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "proxy_replace_header_map_value",
        |c: Guest<'_>, map: u32, name: u32, name_size: u32, value: u32, value_size: u32| {
            run(c, "proxy_replace_header_map_value", |c, args| {
                let map = MapKind::from_abi(map)?;
                let name = memory::read(c, name, name_size)?;
                let value = memory::read(c, value, value_size)?;
                args.say(|| format!("{map:?}, {}: {}", shown(&name), shown(&value)));
                c.data_mut().map_mut(map)?.set(&name, &value);
                Ok(())
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "proxy_remove_header_map_value",
        |c: Guest<'_>, map: u32, name: u32, name_size: u32| {
            run(c, "proxy_remove_header_map_value", |c, args| {
                let map = MapKind::from_abi(map)?;
                let name = memory::read(c, name, name_size)?;
                args.say(|| format!("{map:?}, {}", shown(&name)));
                c.data_mut().map_mut(map)?.remove(&name);
                Ok(())
            })
        },
    )?;
    linker.func_wrap(MODULE, "proxy_get_header_map_pairs", |c: Guest<'_>, map: u32, pairs_at: u32, size_at: u32| {
        run(c, "proxy_get_header_map_pairs", |c, args| {
            let map = MapKind::from_abi(map)?;
            let found = c.data().map(map).filter(|pairs| !pairs.is_empty());
            let blob = found.map(pairs::encode).unwrap_or_default();
            args.say(|| format!("{map:?} -> {} bytes", blob.len()));
            memory::give(c, &blob, pairs_at, size_at)
        })
    })?;
    linker.func_wrap(MODULE, "proxy_set_header_map_pairs", |c: Guest<'_>, map: u32, blob: u32, blob_size: u32| {
        run(c, "proxy_set_header_map_pairs", |c, args| {
            let map = MapKind::from_abi(map)?;
            let pairs = pairs::decode(&memory::read(c, blob, blob_size)?);
            args.say(|| format!("{map:?}, {} pairs", pairs.len()));
            Ok(c.data_mut().set_headers(map, pairs)?)
        })
    })?;
    linker.func_wrap(MODULE, "proxy_get_header_map_size", |c: Guest<'_>, map: u32, at: u32| {
        run(c, "proxy_get_header_map_size", |c, args| {
            let map = MapKind::from_abi(map)?;
            args.say(|| format!("{map:?}"));
            let bytes = c.data_mut().map_mut(map)?.byte_size();
            Ok(memory::write_u32(c, at, u32::try_from(bytes).unwrap_or(u32::MAX))?)
        })
    })?;
    Ok(())
}

fn link_buffers(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.func_wrap(
        MODULE,
        "proxy_get_buffer_bytes",
        |c: Guest<'_>, buffer: u32, start: u32, length: u32, bytes_at: u32, size_at: u32| {
            run(c, "proxy_get_buffer_bytes", |c, args| {
                let buffer = BufferKind::from_abi(buffer)?;
                args.say(|| format!("{buffer:?}, {start}, {length}"));
                // The host's words have 64 bits, so a sum of two 32-bit numbers never overflows there.
                let all = c.data().buffer(buffer)?;
                let bytes = Body::range(all, size(start), size(length)).to_vec();
                args.say(|| format!("{buffer:?}, {start}, {length} -> {} bytes", bytes.len()));
                memory::give(c, &bytes, bytes_at, size_at)
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "proxy_get_buffer_status",
        |c: Guest<'_>, buffer: u32, length_at: u32, flags_at: u32| {
            run(c, "proxy_get_buffer_status", |c, args| {
                let buffer = BufferKind::from_abi(buffer)?;
                args.say(|| format!("{buffer:?}"));
                let length = c.data().buffer(buffer)?.len();
                memory::write_u32(c, length_at, u32::try_from(length).unwrap_or(u32::MAX))?;
                Ok(memory::write_u32(c, flags_at, 0)?)
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "proxy_set_buffer_bytes",
        |c: Guest<'_>, buffer: u32, start: u32, length: u32, data: u32, data_size: u32| {
            run(c, "proxy_set_buffer_bytes", |c, args| {
                let buffer = BufferKind::from_abi(buffer)?;
                args.say(|| format!("{buffer:?}, {start}, {length}, {data_size} bytes"));
                let data = memory::read(c, data, data_size)?;
                Ok(c.data_mut().set_buffer(buffer, size(start), size(length), &data)?)
            })
        },
    )?;
    Ok(())
}

fn link_properties(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.func_wrap(
        MODULE,
        "proxy_get_property",
        |c: Guest<'_>, path: u32, path_size: u32, value_at: u32, size_at: u32| {
            run(c, "proxy_get_property", |c, args| {
                let path = memory::read(c, path, path_size)?;
                args.say(|| crate::property::parts(&path).join("."));
                let value = c.data().property(&path)?;
                memory::give(c, &value, value_at, size_at)
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "proxy_set_property",
        |c: Guest<'_>, path: u32, path_size: u32, value: u32, value_size: u32| {
            run(c, "proxy_set_property", |c, args| {
                let path = memory::read(c, path, path_size)?;
                let value = memory::read(c, value, value_size)?;
                args.say(|| format!("{}, {}", crate::property::parts(&path).join("."), shown(&value)));
                Ok(c.data_mut().set_property(&path, &value)?)
            })
        },
    )?;
    Ok(())
}

fn link_sharing(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.func_wrap(
        MODULE,
        "proxy_get_shared_data",
        |c: Guest<'_>, key: u32, key_size: u32, value_at: u32, size_at: u32, cas_at: u32| {
            run(c, "proxy_get_shared_data", |c, args| {
                let key = memory::read(c, key, key_size)?;
                args.say(|| shown(&key));
                let (value, cas) = c.data().shared_data(&key)?;
                args.say(|| format!("{} -> {} bytes, cas {cas}", shown(&key), value.len()));
                memory::give(c, &value, value_at, size_at)?;
                Ok(memory::write_u32(c, cas_at, cas)?)
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "proxy_set_shared_data",
        |c: Guest<'_>, key: u32, key_size: u32, value: u32, value_size: u32, cas: u32| {
            run(c, "proxy_set_shared_data", |c, args| {
                let key = memory::read(c, key, key_size)?;
                let value = memory::read(c, value, value_size)?;
                args.say(|| format!("{}, {} bytes, cas {cas}", shown(&key), value.len()));
                Ok(c.data_mut().set_shared_data(&key, &value, cas)?)
            })
        },
    )?;
    linker.func_wrap(MODULE, "proxy_register_shared_queue", |c: Guest<'_>, name: u32, name_size: u32, at: u32| {
        run(c, "proxy_register_shared_queue", |c, args| {
            let name = memory::read(c, name, name_size)?;
            args.say(|| shown(&name));
            let token = c.data_mut().register_queue(&name);
            Ok(memory::write_u32(c, at, token)?)
        })
    })?;
    linker.func_wrap(
        MODULE,
        "proxy_resolve_shared_queue",
        |c: Guest<'_>, vm_id: u32, vm_id_size: u32, name: u32, name_size: u32, at: u32| {
            run(c, "proxy_resolve_shared_queue", |c, args| {
                let vm_id = memory::read(c, vm_id, vm_id_size)?;
                let name = memory::read(c, name, name_size)?;
                args.say(|| format!("{}, {}", shown(&vm_id), shown(&name)));
                let token = c.data().resolve_queue(&vm_id, &name)?;
                Ok(memory::write_u32(c, at, token)?)
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "proxy_dequeue_shared_queue",
        |c: Guest<'_>, token: u32, bytes_at: u32, size_at: u32| {
            run(c, "proxy_dequeue_shared_queue", |c, args| {
                args.say(|| format!("{token}"));
                let item = c.data_mut().dequeue(token)?;
                memory::give(c, &item, bytes_at, size_at)
            })
        },
    )?;
    linker.func_wrap(MODULE, "proxy_enqueue_shared_queue", |c: Guest<'_>, token: u32, item: u32, item_size: u32| {
        run(c, "proxy_enqueue_shared_queue", |c, args| {
            let item = memory::read(c, item, item_size)?;
            args.say(|| format!("{token}, {}", shown(&item)));
            Ok(c.data_mut().enqueue(token, &item)?)
        })
    })?;
    Ok(())
}

fn link_streams(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.func_wrap(MODULE, "proxy_continue_stream", |c: Guest<'_>, stream: u32| {
        run(c, "proxy_continue_stream", |c, args| {
            let stream = StreamKind::from_abi(stream)?;
            args.say(|| format!("{stream:?}"));
            Ok(c.data_mut().continue_stream(stream)?)
        })
    })?;
    linker.func_wrap(MODULE, "proxy_close_stream", |c: Guest<'_>, stream: u32| {
        run(c, "proxy_close_stream", |c, args| {
            let stream = StreamKind::from_abi(stream)?;
            args.say(|| format!("{stream:?}"));
            c.data_mut().close_stream(stream);
            Ok(())
        })
    })?;
    linker.func_wrap(
        MODULE,
        "proxy_send_local_response",
        |c: Guest<'_>,
         status: u32,
         details: u32,
         details_size: u32,
         body: u32,
         body_size: u32,
         headers: u32,
         headers_size: u32,
         grpc_status: u32| {
            run(c, "proxy_send_local_response", |c, args| {
                let details = memory::read(c, details, details_size)?;
                let body = memory::read(c, body, body_size)?;
                let headers = pairs::decode(&memory::read(c, headers, headers_size)?);
                args.say(|| format!("{status}, {} headers, {}", headers.len(), shown(&body)));
                if c.data().is_logging() {
                    // Envoy 1.40.0 then writes its access log again, which calls the guest again, until its stack ends.
                    return Err(Failure::Trapped(wasmtime::format_err!(
                        "a local reply from proxy_on_log, which ends Envoy 1.40.0 itself"
                    )));
                }
                c.data_mut().send_local_response(guest_reply(status, &details, body, headers, grpc_status));
                Ok(())
            })
        },
    )?;
    linker.func_wrap(MODULE, "proxy_set_effective_context", |c: Guest<'_>, context: u32| {
        run(c, "proxy_set_effective_context", |c, args| {
            args.say(|| format!("{context}"));
            Ok(c.data_mut().set_effective_context(context)?)
        })
    })?;
    linker.func_wrap(MODULE, "proxy_done", |c: Guest<'_>| {
        // Only a root context that has put off its end waits for this, and this host never ends one.
        run(c, "proxy_done", |_, _| Err(CallError::NothingPending.into()))
    })?;
    Ok(())
}

fn link_calls(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.func_wrap(
        MODULE,
        "proxy_http_call",
        |c: Guest<'_>,
         cluster: u32,
         cluster_size: u32,
         headers: u32,
         headers_size: u32,
         body: u32,
         body_size: u32,
         trailers: u32,
         trailers_size: u32,
         timeout_ms: u32,
         token_at: u32| {
            run(c, "proxy_http_call", |c, args| {
                let cluster = memory::read(c, cluster, cluster_size)?;
                let headers = pairs::decode(&memory::read(c, headers, headers_size)?);
                let body = memory::read(c, body, body_size)?;
                let trailers = pairs::decode(&memory::read(c, trailers, trailers_size)?);
                args.say(|| {
                    let path = headers.text(":path").unwrap_or_default();
                    format!("{}, {path}, {} body bytes, timeout {timeout_ms} ms", shown(&cluster), body.len())
                });
                memory::write_u32(c, token_at, 0)?;
                let token = c.data_mut().http_call(&cluster, headers, body, trailers, timeout_ms)?;
                Ok(memory::write_u32(c, token_at, token)?)
            })
        },
    )?;
    linker.func_wrap(MODULE, "proxy_get_status", |c: Guest<'_>, code_at: u32, text_at: u32, size_at: u32| {
        run(c, "proxy_get_status", |c, _| {
            let (status, text) = c.data().call_status();
            memory::write_u32(c, code_at, status.abi())?;
            memory::give(c, text.as_bytes(), text_at, size_at)
        })
    })?;
    linker.func_wrap(
        MODULE,
        "proxy_call_foreign_function",
        |c: Guest<'_>, name: u32, name_size: u32, argument: u32, argument_size: u32, result_at: u32, size_at: u32| {
            run(c, "proxy_call_foreign_function", |c, args| {
                let name = memory::read(c, name, name_size)?;
                memory::read(c, argument, argument_size)?;
                args.say(|| shown(&name));
                c.data_mut().foreign_function(&name)?;
                for word in [result_at, size_at].into_iter().filter(|word| *word != 0) {
                    memory::write_u32(c, word, 0)?;
                }
                Ok(())
            })
        },
    )?;
    Ok(())
}

fn link_stats(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.func_wrap(
        MODULE,
        "proxy_define_metric",
        |c: Guest<'_>, kind: u32, name: u32, name_size: u32, at: u32| {
            run(c, "proxy_define_metric", |c, args| {
                let name = memory::read(c, name, name_size)?;
                args.say(|| format!("{kind}, {}", shown(&name)));
                let id = c.data_mut().define_stat(kind, &name)?;
                Ok(memory::write_u32(c, at, id)?)
            })
        },
    )?;
    linker.func_wrap(MODULE, "proxy_increment_metric", |c: Guest<'_>, id: u32, offset: i64| {
        run(c, "proxy_increment_metric", |c, args| {
            args.say(|| format!("{}, {offset}", c.data().stat_name(id)));
            Ok(c.data_mut().increment_stat(id, offset)?)
        })
    })?;
    linker.func_wrap(MODULE, "proxy_record_metric", |c: Guest<'_>, id: u32, value: u64| {
        run(c, "proxy_record_metric", |c, args| {
            args.say(|| format!("{}, {value}", c.data().stat_name(id)));
            Ok(c.data_mut().record_stat(id, value)?)
        })
    })?;
    linker.func_wrap(MODULE, "proxy_get_metric", |c: Guest<'_>, id: u32, at: u32| {
        run(c, "proxy_get_metric", |c, args| {
            args.say(|| c.data().stat_name(id));
            let value = c.data().stat(id)?;
            Ok(memory::write_u64(c, at, value)?)
        })
    })?;
    Ok(())
}

/// gRPC: no service is known here, so nothing can be started and no token exists.
fn link_grpc(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.func_wrap(
        MODULE,
        "proxy_grpc_call",
        |c: Guest<'_>,
         service: u32,
         service_size: u32,
         _: u32,
         _: u32,
         _: u32,
         _: u32,
         _: u32,
         _: u32,
         _: u32,
         _: u32,
         _: u32,
         _: u32| {
            run(c, "proxy_grpc_call", |c, args| {
                let service = memory::read(c, service, service_size)?;
                args.say(|| shown(&service));
                Err(CallError::NoGrpcService.into())
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "proxy_grpc_stream",
        |c: Guest<'_>, service: u32, service_size: u32, _: u32, _: u32, _: u32, _: u32, _: u32, _: u32, _: u32| {
            run(c, "proxy_grpc_stream", |c, args| {
                let service = memory::read(c, service, service_size)?;
                args.say(|| shown(&service));
                Err(CallError::NoGrpcService.into())
            })
        },
    )?;
    linker.func_wrap(MODULE, "proxy_grpc_send", |c: Guest<'_>, token: u32, _: u32, _: u32, _: u32| {
        run(c, "proxy_grpc_send", |_, args| {
            args.say(|| format!("{token}"));
            Err(CallError::NoGrpcToken.into())
        })
    })?;
    linker.func_wrap(MODULE, "proxy_grpc_cancel", |c: Guest<'_>, token: u32| {
        run(c, "proxy_grpc_cancel", |_, args| {
            args.say(|| format!("{token}"));
            Err(CallError::NoGrpcToken.into())
        })
    })?;
    linker.func_wrap(MODULE, "proxy_grpc_close", |c: Guest<'_>, token: u32| {
        run(c, "proxy_grpc_close", |_, args| {
            args.say(|| format!("{token}"));
            Err(CallError::NoGrpcToken.into())
        })
    })?;
    Ok(())
}
