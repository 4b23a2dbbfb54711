# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The page, built with gradio."""

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
from .asking import Model, Shown, ask, shared_tasks
from .gate import MAX_FILE, Gate

if int(gr.__version__.split('.')[0]) < 6:
    raise ImportError(f'gradio {gr.__version__} is too old')
_SESSIONS = 100
_MOST_SAMPLES = 16
SELECTORS = ['likelihood', 'consensus', 'decoder_score', 'discrimination']
"""The first one suits all tasks."""


def build_page(models: Sequence[Model], examples: Sequence[tuple[str, str]], max_pixels: int,
               queue_size: int) -> gr.Blocks:
    """Build the page.

    Args:
        models: One, or two that answer side by side.
        examples: Image files and questions to choose from.
        max_pixels: The most pixels an image may have.
        queue_size: Questions that may wait; more are refused.
    """
    with gr.Blocks(title='mmdpad', analytics_enabled=False) as page:
        gr.HTML('<h1>Ask about an image</h1><p>The model reasons, and answers as its task says: '
                'with a box, two points and a caption, from which a frozen decoder draws the mask, '
                'with labelled boxes, or in words.</p>')
        with gr.Row():
            with gr.Column(min_width=280):
                image = gr.Image(type='filepath', image_mode=None, label='Image', height=300,
                                 sources=['upload', 'clipboard'], buttons=[], elem_id='image')
                _take_only_uploads(image)
                question = gr.Textbox(label='Question', lines=2, max_lines=6, elem_id='question',
                                      placeholder='What could you sit on?')
                with gr.Row():
                    samples = gr.Slider(1, _MOST_SAMPLES, 1, step=1, label='Answers to choose from',
                                        elem_id='samples')
                    select = gr.Dropdown(SELECTORS, value=SELECTORS[0], label='Choose by',
                                         elem_id='select')
                inputs = [image, question, samples, select]
                if tasks := shared_tasks(models):
                    inputs.append(gr.Dropdown(tasks, value=tasks[0], label='Task', elem_id='task'))
                with gr.Row():
                    go = gr.Button('Ask', variant='primary', min_width=100, elem_id='ask')
                    stop = gr.Button('Cancel', min_width=100, elem_id='cancel')
                problem = gr.HTML(elem_id='problem')
            columns = [_column(model, number) for number, model in enumerate(models)]
        # `gr.Examples` would change the session's image component at each choice.
        choice = gr.Dataset(
            label='Examples: plain shapes, all that the toy model (tiny_shapes) knows',
            components=[image, question], samples=[list(example) for example in examples])

        def pick(example: list[str]) -> list[str]:
            return example

        choice.click(pick, choice, [image, question], queue=False, show_progress='hidden',
                     api_visibility='private')
        outputs = [problem, *(part for column in columns for part in column)]

        def run(path: str | None, text: str | None, samples: int, select: str,
                task: str | None = None) -> Iterator[list]:
            with closing(ask(models, path, text, max_pixels, task, int(samples), select)) as steps:
                for wrong, shown in steps:
                    yield [markup.notice(wrong),
                           *(value for one in shown for value in _values(one))]

        asking = gr.on(
            [go.click, question.submit], run, inputs, outputs, concurrency_limit=1,
            trigger_mode='once', show_progress='minimal', show_progress_on=problem,
            api_visibility='private')
        # Keep partial text; clear the status that says a model is writing.
        stop.click(None, cancels=[asking]).then(
            lambda: [markup.notice('Cancelled.'), *[''] * len(models)], None,
            [problem, *(column[0] for column in columns)], queue=False, show_progress='hidden',
            api_visibility='private')
    page.queue(max_size=queue_size, api_open=False)
    _outlive_sessions(page._queue)
    return page


def open_page(page: gr.Blocks, host: str, port: int | None, share: bool = False,
              wait: bool = True) -> str:
    """Serve a page and print its address; return at once, or on Ctrl-C if ``wait``. Files that are
    added to gradio's temporary folder (``GRADIO_TEMP_DIR``) are deleted later, see :class:`Gate`.

    Args:
        page: The result of :func:`build_page`.
        host, port: Where to listen; None for any free port.
        share: Also serve at a public address through gradio's own service.
        wait: Block until Ctrl-C.
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
        print('The page has no login: anyone who can reach its address can use it.')
    print(f'The page is at {address}' + ('; press Ctrl-C to stop' if wait else ''), flush=True)
    if wait:
        page.block_thread()
    return address


def _outlive_sessions(queue: Queue) -> None:
    """Make a gradio queue survive closed sessions: messages to them are dropped, and sessions
    that receive messages are kept longest."""
    send, sessions = queue.send_message, queue.pending_messages_per_session

    def send_if_there(event: Event, message: EventMessage) -> None:
        if event.session_hash in sessions:
            sessions.move_to_end(event.session_hash)
            send(event, message)

    queue.send_message = send_if_there


def _take_only_uploads(image: gr.Image) -> None:
    """Accept uploaded files only, never an address. Gradio's check that a file was uploaded is
    kept; its decoding, which has its own error message, is skipped."""
    image.preprocess = lambda file: file and file.path
    move = image.async_move_resource_to_block_cache

    async def move_no_address(path: str | None) -> str | None:
        if path and '://' in path:
            raise gr.Error('Upload an image.', print_exception=False)
        return await move(path)

    image.async_move_resource_to_block_cache = move_no_address


def _column(model: Model, number: int) -> list[gr.components.Component]:
    """The components for one model's answer; :func:`_values` gives the values in this order."""
    with gr.Column(min_width=280, elem_id=f'model_{number}', elem_classes='model'):
        gr.HTML(f'<h2>{markup.text(model.name)}</h2>')
        status = gr.HTML()
        # Plain-text boxes: model output is never rendered as HTML or Markdown.
        reasoning = gr.Textbox(label='Reasoning', lines=3, max_lines=12, interactive=False,
                               elem_classes='reasoning')
        picture = gr.Image(label='Answer', interactive=False, format='jpeg',
                           buttons=['fullscreen', 'download'], elem_classes='picture')
        caption = gr.Textbox(label='Caption', lines=1, max_lines=6, interactive=False,
                             elem_classes='caption')
        details = gr.HTML(elem_classes='details')
        with gr.Accordion('Full response', open=False):
            response = gr.Textbox(show_label=False, lines=3, max_lines=20, interactive=False,
                                  elem_classes='response')
    return [status, reasoning, picture, caption, details, response]


def _values(shown: Shown) -> tuple:
    return (markup.status(shown), shown.reasoning, shown.picture, shown.caption,
            markup.details(shown), shown.response)
