// Keys, help at the prompts, the worker's state and the page's title. No address but this server's own is ever asked.
(() => {
  'use strict'
  const one = (selector) => document.querySelector(selector)
  const visible = (element) => element && element.offsetParent !== null

  // Ctrl+Enter generates on the tab in view, Esc interrupts. While a text is composed (IME), keys belong to it.
  function press(suffix) {
    for (const button of document.querySelectorAll(`button[id$="_${suffix}"]`)) {
      if (visible(button) && !button.disabled) {
        button.click()
        return true
      }
    }
    return false
  }

  document.addEventListener('keydown', (event) => {
    if (event.isComposing) return
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
      event.preventDefault()
      event.stopPropagation()
      // A text box tells Gradio its value on "input"; let that be handled first.
      setTimeout(() => press('generate'), 0)
    } else if (event.key === 'Escape' && !event.defaultPrevented && !one('[aria-expanded="true"][role="listbox"]')) {
      press('interrupt')
    }
  }, true)

  // What the worker does, from /healthz: often until it is ready, then now and then.
  const SAID = {
    starting: 'Starting the worker', loading: 'Loading the model', ready: 'Ready', busy: 'Working',
    dead: 'The worker stopped', gone: 'The server does not answer',
  }

  async function askWorker() {
    let state = 'gone', detail = ''
    try {
      const answer = await fetch('healthz', { cache: 'no-store' })
      if (answer.ok) ({ worker: state, detail } = await answer.json())
    } catch (error) { /* the server is away: that is what "gone" says */ }
    const place = one('.rp-worker')
    if (place) {
      place.dataset.state = state
      place.title = detail
      const text = place.querySelector('span')
      if (text.textContent !== SAID[state]) text.textContent = SAID[state] || state
    }
    setTimeout(askWorker, !place ? 200 : state === 'ready' ? 4000 : 1000)
  }

  // Progress in the title, for those who look at another window meanwhile.
  function watchProgress() {
    const home = one('#txt2img_status')
    if (!home) return setTimeout(watchProgress, 300)
    new MutationObserver(() => {
      const bar = home.querySelector('.rp-status[data-phase="running"] .rp-bar i')
      const percent = bar ? Math.round(parseFloat(bar.style.width) || 0) : null
      document.title = percent === null ? 'Reprise' : `${percent}% · Reprise`
    }).observe(home, { subtree: true, childList: true, characterData: true, attributes: true })
  }

  // Weights: Ctrl+Up and Ctrl+Down on the selection, else on the tag, the brackets or the word at the cursor.
  const WORD_ENDS = '.,\\/!?%^*;:{}=`~()[]<>| \t\r\n'

  // The innermost pair around [start, end), or null.
  function around(text, start, end, open, close) {
    const left = text.lastIndexOf(open, start - 1), right = text.indexOf(close, end)
    if (start === 0 || left < 0 || right < 0) return null
    if (text.slice(left + 1, right).includes(close) || text.slice(left + 1, right).includes(open)) return null
    return [left, right]
  }

  // { text, start, end } after one key press, or null where there is nothing to weigh.
  function reweighted(text, start, end, up) {
    const tag = around(text, start, end, '<', '>')
    if (tag) {
      const inner = text.slice(tag[0] + 1, tag[1])
      const [, head, old] = /^(\w+:.*?)(?::\s*([-+]?[\d.]+))?$/s.exec(inner) || []
      if (head === undefined) return null
      const weight = shown((old === undefined ? 1 : Number(old)) + (up ? 0.05 : -0.05))
      if (weight === null) return null
      return { text: `${text.slice(0, tag[0] + 1)}${head}:${weight}${text.slice(tag[1])}`, start, end: Math.max(start, Math.min(end, tag[0] + 1 + head.length)) }
    }
    if (start === end) {
      const pair = around(text, start, end, '(', ')')
      const inner = pair && /^(.*):\s*[-+]?[\d.]+\s*$/s.exec(text.slice(pair[0] + 1, pair[1]))
      if (inner) {
        [start, end] = [pair[0] + 1, pair[0] + 1 + inner[1].length]
      } else {
        while (start > 0 && !WORD_ENDS.includes(text[start - 1])) start--
        while (end < text.length && !WORD_ENDS.includes(text[end])) end++
      }
    }
    while (end > start && /\s/.test(text[end - 1])) end--
    while (start < end && /\s/.test(text[start])) start++
    if (start === end) return null
    const words = text.slice(start, end)
    let before = text.slice(0, start), after = text.slice(end), weight = 1
    const number = /^:\s*([-+]?[\d.]+)\s*\)/.exec(after)
    if (before.endsWith('(') && number) {
      weight = Number(number[1])
      before = before.slice(0, -1)
      after = after.slice(number[0].length)
    } else {
      for (const [open, close, factor] of ['()', '[]'].map((pair) => [...pair, pair === '()' ? 1.1 : 1 / 1.1])) {
        let pairs = 0
        while (before.endsWith(open.repeat(pairs + 1)) && after.startsWith(close.repeat(pairs + 1))) pairs++
        if (!pairs) continue
        weight = Math.round(10 * factor ** pairs) / 10
        before = before.slice(0, -pairs)
        after = after.slice(pairs)
        break
      }
    }
    const number_ = shown(weight + (up ? 0.1 : -0.1))
    if (number_ === null) return null
    const plain = Number(number_) === 1
    start = before.length + (plain ? 0 : 1)
    return {
      text: before + (plain ? words : `(${words}:${number_})`) + after, start, end: start + words.length,
    }
  }

  function shown(weight) {
    if (!Number.isFinite(weight)) return null
    weight = parseFloat(weight.toFixed(4))
    return Number.isInteger(weight) ? weight.toFixed(1) : String(weight)
  }

  // Put ``text`` into a box as if it were typed: it can be undone, and Gradio hears of it.
  function retype(box, text) {
    const old = box.value
    let head = 0, tail = 0
    while (head < old.length && head < text.length && old[head] === text[head]) head++
    const room = Math.min(old.length, text.length) - head
    while (tail < room && old[old.length - 1 - tail] === text[text.length - 1 - tail]) tail++
    box.focus()
    box.setSelectionRange(head, old.length - tail)
    const piece = text.slice(head, text.length - tail)
    if (document.execCommand(piece ? 'insertText' : 'delete', false, piece) && box.value === text) return
    box.value = text
    box.dispatchEvent(new Event('input', { bubbles: true }))
  }

  const isPrompt = (element) => element && element.matches && element.matches('[id$="_prompt"] textarea, [id$="_negative"] textarea')

  document.addEventListener('keydown', (event) => {
    if (event.isComposing || event.altKey || event.shiftKey || !(event.ctrlKey || event.metaKey)) return
    if ((event.key !== 'ArrowUp' && event.key !== 'ArrowDown') || !isPrompt(event.target)) return
    event.preventDefault()
    const box = event.target
    const made = reweighted(box.value, box.selectionStart, box.selectionEnd, event.key === 'ArrowUp')
    if (!made) return
    retype(box, made.text)
    box.setSelectionRange(made.start, made.end)
  }, true)

  // The inspector: asked for when the form has been at rest for a moment. tabs/prompts.py says why by a button.
  const PAUSE_MS = 300
  const waiting = {}
  const root = document.documentElement

  function inspect(tab, pause) {
    clearTimeout(waiting[tab])
    waiting[tab] = setTimeout(() => one(`#${tab}_inspect`)?.click(), pause)
  }

  function openInspector(open) {
    if (open) root.dataset.inspect = 'open'
    else delete root.dataset.inspect
    try { localStorage.setItem('reprise.inspect', open ? 'open' : '') } catch (error) { /* it is forgotten then */ }
    showToggles()
  }

  function showToggles() {
    for (const toggle of document.querySelectorAll('.rp-toggle')) {
      toggle.setAttribute('aria-expanded', String(!!root.dataset.inspect))
      if (root.dataset.inspect) inspect(toggle.getAttribute('aria-controls').replace(/_inspector$/, ''), 0)
    }
  }

  document.addEventListener('reprise:form', (event) => inspect(event.detail, PAUSE_MS))
  document.addEventListener('reprise:inspected', (event) => requestAnimationFrame(() => {
    document.querySelectorAll(`[id^="${event.detail}_"] > * .rp-line`).forEach(mark)
  }))

  document.addEventListener('click', (event) => {
    const button = event.target.closest?.('.rp-toggle, .rp-goto')
    if (!button) return
    if (button.matches('.rp-toggle')) return openInspector(!root.dataset.inspect)
    const box = one(`#${button.dataset.box} textarea`)
    if (!box) return
    const at = offset(box.value, Number(button.dataset.column))
    box.focus()
    box.setSelectionRange(at, at + 1)
  })

  // The server counts characters, the browser counts UTF-16 units.
  function offset(text, column) {
    let at = 0
    for (const letter of text) {
      if (--column < 1) break
      at += letter.length
    }
    return at
  }

  // Marks at what is odd: a copy of the text lies over the box, transparent but for them. Typing takes them away until
  // the next answer.
  function mark(line) {
    const box = one(`#${line.dataset.box} textarea`)
    if (!box) return
    let layer = box.parentElement.querySelector('.rp-marks')
    if (!layer) {
      layer = document.createElement('div')
      layer.className = 'rp-marks'
      layer.setAttribute('aria-hidden', 'true')
      box.parentElement.append(layer)
      box.addEventListener('scroll', () => { layer.scrollTop = box.scrollTop })
      box.addEventListener('input', () => layer.replaceChildren())
    }
    const places = (line.dataset.marks || '').split(' ').filter(Boolean).map((column) => offset(box.value, Number(column)))
    box.setAttribute('aria-invalid', String(places.length > 0))
    layer.replaceChildren()
    if (!places.length) return
    const style = getComputedStyle(box)
    for (const name of ['font', 'letterSpacing', 'padding', 'lineHeight', 'textAlign', 'direction']) layer.style[name] = style[name]
    Object.assign(layer.style, {
      left: `${box.offsetLeft + box.clientLeft}px`, top: `${box.offsetTop + box.clientTop}px`,
      width: `${box.clientWidth}px`, height: `${box.clientHeight}px`,
    })
    let done = 0
    for (const at of [...new Set(places)].sort((a, b) => a - b)) {
      const letter = document.createElement('mark')
      letter.textContent = box.value[at] || ' '
      layer.append(box.value.slice(done, at), letter)
      done = at + 1
    }
    layer.append(box.value.slice(done) + '\n')
    layer.scrollTop = box.scrollTop
  }

  function begin() {
    if (!one('.rp-toggle')) return setTimeout(begin, 300)
    try { if (localStorage.getItem('reprise.inspect')) root.dataset.inspect = 'open' } catch (error) { /* closed then */ }
    showToggles()
  }

  askWorker()
  watchProgress()
  begin()
})()
