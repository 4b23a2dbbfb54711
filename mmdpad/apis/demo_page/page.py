# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The page itself, in gradio."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator, Sequence
from contextlib import closing

import gradio as gr
from gradio.queueing import Event, Queue
from gradio.server_messages import EventMessage
from gradio.utils import get_upload_folder
from starlette.middleware import Middleware

from . import markup
from .asking import Model, Shown, ask
from .gate import MAX_FILE, Gate

if int(gr.__version__.split('.')[0]) < 6:
    raise ImportError(f'gradio {gr.__version__} is too old')
_SESSIONS = 100


def build_page(models: Sequence[Model], examples: Sequence[tuple[str, str]], max_pixels: int,
               queue_size: int) -> gr.Blocks:
    """The page, ready to be opened.

    Args:
        models: One, or two that answer side by side.
        examples: Image files and questions to pick from.
        max_pixels: Of an image.
        queue_size: Questions that may wait; more are refused.
    """
    with gr.Blocks(title='mmdpad', analytics_enabled=False) as page:
        gr.HTML('<h1>Ask about an image</h1><p>The model reasons, names a box and two points, and '
                'describes the object; a frozen decoder draws the mask.</p>')
        with gr.Row():
            with gr.Column(min_width=280):
                image = gr.Image(type='filepath', image_mode=None, label='Image', height=300,
                                 sources=['upload', 'clipboard'], buttons=[], elem_id='image')
                _take_only_uploads(image)
                question = gr.Textbox(label='Question', lines=2, max_lines=6, elem_id='question',
                                      placeholder='What could you sit on?')
                with gr.Row():
                    go = gr.Button('Ask', variant='primary', min_width=100, elem_id='ask')
                    stop = gr.Button('Cancel', min_width=100, elem_id='cancel')
                problem = gr.HTML(elem_id='problem')
            columns = [_column(model, number) for number, model in enumerate(models)]
        # `gr.Examples` would make the session another image component at each choice.
        choice = gr.Dataset(
            label='Examples: plain shapes, all that the miniature (tiny_shapes) knows',
            components=[image, question], samples=[list(example) for example in examples])

        def pick(example: list[str]) -> list[str]:
            return example

        choice.click(pick, choice, [image, question], queue=False, show_progress='hidden',
                     api_visibility='private')
        outputs = [problem, *(part for column in columns for part in column)]

        def run(path: str | None, text: str | None) -> Iterator[list]:
            with closing(ask(models, path, text, max_pixels)) as steps:
                for wrong, shown in steps:
                    yield [markup.notice(wrong),
                           *(value for one in shown for value in _values(one))]

        asking = gr.on(
            [go.click, question.submit], run, [image, question], outputs, concurrency_limit=1,
            trigger_mode='once', show_progress='minimal', show_progress_on=problem,
            api_visibility='private')
        # Half-written texts stay; what says that a model writes goes.
        stop.click(None, cancels=[asking]).then(
            lambda: [markup.notice('Cancelled.'), *[''] * len(models)], None,
            [problem, *(column[0] for column in columns)], queue=False, show_progress='hidden',
            api_visibility='private')
    page.queue(max_size=queue_size, api_open=False)
    _outlive_sessions(page._queue)
    return page


def open_page(page: gr.Blocks, host: str, port: int | None, share: bool = False,
              wait: bool = True) -> str:
    """Serve a page and print its address; return it at once, or at the end if ``wait``. Files in
    gradio's temporary folder (``GRADIO_TEMP_DIR``) that come later are deleted, see :class:`Gate`.

    Args:
        page: What :func:`build_page` made.
        host, port: Where; None for any free port.
        share: Also through a public address of gradio's own service.
        wait: Until Ctrl-C.
    """
    plain = [gr.themes.Font('sans-serif')]
    _, address, _ = page.launch(
        server_name=host, server_port=port, share=share, prevent_thread_lock=True,
        quiet=True,
        theme=gr.themes.Default(font=plain, font_mono=[gr.themes.Font('monospace')]),
        css=markup.CSS, footer_links=[], run_history=False, enable_monitoring=False,
        ssr_mode=False, pwa=False, mcp_server=False, max_file_size=MAX_FILE, inbrowser=False,
        state_session_capacity=_SESSIONS,
        app_kwargs=dict(middleware=[Middleware(Gate, get_upload_folder())]))
    if share or not ipaddress.ip_address(socket.gethostbyname(host)).is_loopback:
        print('The page has no login: whoever reaches its address can use it.')
    print(f'The page is at {address}' + ('; Ctrl-C ends it' if wait else ''), flush=True)
    if wait:
        page.block_thread()
    return address


def _outlive_sessions(queue: Queue) -> None:
    """A queue of gradio's that goes on where a session is gone: messages to it are dropped, and
    sessions that get messages are kept before others."""
    send, sessions = queue.send_message, queue.pending_messages_per_session

    def send_if_there(event: Event, message: EventMessage) -> None:
        if event.session_hash in sessions:
            sessions.move_to_end(event.session_hash)
            send(event, message)

    queue.send_message = send_if_there


def _take_only_uploads(image: gr.Image) -> None:
    """Gradio checks that a file was uploaded. It would also open it, and fail with a message of its
    own; and no image is fetched from an address."""
    image.preprocess = lambda file: file and file.path
    move = image.async_move_resource_to_block_cache

    async def move_no_address(path: str | None) -> str | None:
        if path and '://' in path:
            raise gr.Error('An image has to be uploaded.', print_exception=False)
        return await move(path)

    image.async_move_resource_to_block_cache = move_no_address


def _column(model: Model, number: int) -> list[gr.components.Component]:
    """What shows the answer of one model; :func:`_values` gives the values in this order."""
    with gr.Column(min_width=280, elem_id=f'model_{number}', elem_classes='model'):
        gr.HTML(f'<h2>{markup.text(model.name)}</h2>')
        status = gr.HTML()
        # Boxes of plain text: what a model writes is never read as HTML or Markdown.
        reasoning = gr.Textbox(label='Reasoning', lines=3, max_lines=12, interactive=False,
                               elem_classes='reasoning')
        picture = gr.Image(label='Answer', interactive=False, format='jpeg',
                           buttons=['fullscreen', 'download'], elem_classes='picture')
        caption = gr.Textbox(label='Description', lines=1, max_lines=6, interactive=False,
                             elem_classes='description')
        details = gr.HTML(elem_classes='details')
        with gr.Accordion('The whole response', open=False):
            response = gr.Textbox(show_label=False, lines=3, max_lines=20, interactive=False,
                                  elem_classes='response')
    return [status, reasoning, picture, caption, details, response]


def _values(shown: Shown) -> tuple:
    return (markup.status(shown), shown.reasoning, shown.picture, shown.caption,
            markup.details(shown), shown.response)
